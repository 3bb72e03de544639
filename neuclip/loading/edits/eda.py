"""Easy data augmentation of texts (EDA, arXiv 1901.11196), as DeCLIP (arXiv 2110.05208) makes its second text view."""

import re
from functools import cache
from pathlib import Path

import numpy as np

SYNONYMS = Path(__file__).with_name("synonyms.tsv")
"""A word a line with its synonyms, between tabs; infra/synonyms.py makes it from WordNet, whose licence lies beside."""

_DELETED_SHARE = 0.1
_WORD = re.compile(r"(\W*)(\w+)(\W*)")


def eda(text: str, random: np.random.Generator) -> str:
    """Return a text edited in one of three ways, each as likely: `synonym`, `swap`, `delete`.

    A text of fewer than two words stays as it is, and so does one in which the chosen edit changes nothing. Else the
    words are those between white space, and single spaces stand between them afterwards.

    Args:
        random: keyed by what the edit is for; the same key gives the same text.
    """
    edit = (synonym, swap, delete)[int(random.integers(3))]
    return edit(text, random)


def synonym(text: str, random: np.random.Generator) -> str:
    """Replace one word by one of its synonyms, if a word has any; signs around it and a capital letter stay."""
    words, known = text.split(), synonyms()
    found = [(place, _WORD.fullmatch(word)) for place, word in enumerate(words)]
    replaceable = [
        (place, match, others)
        for place, match in found
        if match and (others := known.get(match[2].lower()))
    ]
    if len(words) < 2 or not replaceable:
        return text
    place, match, others = replaceable[int(random.integers(len(replaceable)))]
    other = others[int(random.integers(len(others)))]
    if match[2][0].isupper():
        other = other.capitalize()
    words[place] = f"{match[1]}{other}{match[3]}"
    return " ".join(words)


def swap(text: str, random: np.random.Generator) -> str:
    """Let two words at different places change places."""
    words = text.split()
    if len(words) < 2:
        return text
    one, other = random.choice(len(words), 2, replace=False)
    words[one], words[other] = words[other], words[one]
    return " ".join(words)


def delete(text: str, random: np.random.Generator) -> str:
    """Leave out each word with a chance of 0.1; of a text that would be left empty, one word stays."""
    words = text.split()
    if len(words) < 2:
        return text
    kept = random.random(len(words)) >= _DELETED_SHARE
    if not kept.any():
        kept[random.integers(len(words))] = True
    if kept.all():
        return text
    return " ".join(word for word, is_kept in zip(words, kept, strict=True) if is_kept)


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Return word -> synonyms, all in lower case."""
    lines = SYNONYMS.read_text(encoding="ascii").splitlines()
    return {word: tuple(others) for word, *others in (line.split("\t") for line in lines)}
