"""Names and numbers of a text: what a model that sees an image cannot know, and must not lose."""

import re

_WORD = re.compile(r"[^\W_]+(?:['’.\-/][^\W_]+)*")  # noqa: RUF001
_SENTENCE = re.compile(r"[.!?:]\s+|\A\W*")
_TITLE_SHARE = 0.6
"""From this share of words on with a capital, capitals tell no names: a title, or shouting."""


def names_in(text: str) -> set[str]:
    """Return the names and numbers of a text, in lower case.

    Words with a digit; and words with a capital that do not begin a sentence, unless most words have one. Languages
    without capitals have numbers alone.
    """
    words = [(match.start(), match[0]) for match in _WORD.finditer(text)]
    starts = {match.end() for match in _SENTENCE.finditer(text)}
    capital = [word for _, word in words if word[0].isupper()]
    tells = len(capital) <= _TITLE_SHARE * len(words)
    return {
        word.casefold()
        for start, word in words
        if any(character.isdigit() for character in word)
        or (tells and word[0].isupper() and start not in starts and word != "I")
    }


def share_kept(text: str, answer: str) -> float:
    """Return the share of the names and numbers of a text that an answer has too; 1 for a text without any."""
    names = names_in(text)
    if not names:
        return 1.0
    words = {match[0].casefold() for match in _WORD.finditer(answer)}
    words |= {part for word in words for part in re.split(r"['’.\-/]", word)}  # noqa: RUF001
    return sum(name in words for name in names) / len(names)
