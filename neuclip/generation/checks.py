"""Which answers may train. Each answer gets one status; the first check that it fails gives it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from neuclip.generation.backend import Ended, Reply
from neuclip.generation.config import Checks, Step
from neuclip.generation.inert import inert
from neuclip.generation.names import share_kept
from neuclip.generation.prompts import answer_in, known_phrases

MOST_CHARACTERS = 600
"""Of a text that is kept, whatever its status."""
_FEW = 5
"""So many same answers are no pattern yet."""


class Status(StrEnum):
    """What became of a question."""

    OK = "ok"
    REFUSED = "refused"
    """The model or the endpoint would not answer."""
    ECHO = "echo"
    """The text that it was given, or words of the question."""
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    REPEATED = "repeated"
    """The same words again and again, or the answer to many other questions."""
    NOT_LANGUAGE = "not_language"
    """Markup, code, addresses, or signs that are no words."""
    LOST_NAMES = "lost_names"
    LOW_SIMILARITY = "low_similarity"
    """The image has less to do with it than with the text it would stand in for."""
    MALFORMED = "malformed"
    """No answer between the marks."""
    WRONG_ITEM = "wrong_item"
    """The answer to another question."""
    UNREADABLE = "unreadable_image"
    NO_ANSWER = "no_answer"
    """None came, in all tries."""


@dataclass(frozen=True)
class Judged:
    """An answer, without power over what shows it, and its status."""

    text: str
    status: Status


_ENDED = {
    Ended.FILTERED: Status.REFUSED,
    Ended.REJECTED: Status.REFUSED,
    Ended.UNREADABLE: Status.UNREADABLE,
    Ended.MALFORMED: Status.MALFORMED,
    Ended.NO_ANSWER: Status.NO_ANSWER,
}
_REFUSAL = re.compile(
    r"^\W*(?:(?:i[’']?m|i am)\s+(?:very |so |really )?(?:sorry|afraid|unable|not able|not comfortable)"  # noqa: RUF001
    r"|sorry\b|(?:i|we)\s+(?:can(?:no|['’]?)t|can not|won['’]?t|will not|must decline|apologi[sz]e)\b"  # noqa: RUF001
    r"|as an? (?:ai|artificial|language|large)\b|unfortunately,? i\b|i (?:do not|don['’]t) (?:feel|see|have))"  # noqa: RUF001
    r"|\b(?:as an ai|language model|against my (?:guidelines|policy)|content policy)\b",
    re.I,
)
_MARKUP = re.compile(
    r"</?[a-z!][^<>]{0,200}>|https?://|www\.|```|\{\s*\"|=>|&(?:[a-z]{2,8}|#x?[0-9a-f]{2,6});|"
    r"\bdef \w+\(|[;{}]\s*[;{}]|\]\(",
    re.I,
)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’\-][^\W_]+)*")  # noqa: RUF001
_LONGEST_WORD = 40
_LETTERS = 0.6
_SAME_CHARACTER = re.compile(r"([^\W\d])\1{5}|([^\s.])\2{9}")


def judge(step: Step, reply: Reply, *, uid: str, k: int, texts: Mapping[str, str]) -> Judged:
    """Say what a reply is worth.

    Args:
        texts: what the question was made of, by source.
    """
    if reply.ended in _ENDED:
        return Judged(inert(reply.text)[:MOST_CHARACTERS], _ENDED[reply.ended])
    answer, is_of_another = answer_in(reply.text, uid, step.source, k)
    text = inert(answer).strip("\"'“”‘’«» ")  # noqa: RUF001
    if not text:
        whole = inert(reply.text)[:MOST_CHARACTERS]
        return Judged(whole, _without_answer(whole, is_of_another=is_of_another))
    status = _status(text, step.checks, texts)
    if status is Status.OK and reply.ended is Ended.LENGTH and "</answer>" not in reply.text:
        status = Status.TOO_LONG
    return Judged(text[:MOST_CHARACTERS], status)


def _without_answer(whole: str, *, is_of_another: bool) -> Status:
    if is_of_another:
        return Status.WRONG_ITEM
    return Status.REFUSED if _REFUSAL.search(whole) else Status.MALFORMED


def _status(text: str, checks: Checks, texts: Mapping[str, str]) -> Status:
    words = _WORD.findall(text)
    failed = {
        Status.REFUSED: _REFUSAL.search(text) is not None,
        Status.ECHO: _is_echo(text, texts),
        Status.NOT_LANGUAGE: not _is_language(text, words),
        Status.TOO_SHORT: len(words) < checks.min_words,
        Status.TOO_LONG: len(words) > checks.max_words or len(text) > MOST_CHARACTERS,
        Status.REPEATED: _is_repeated(text, words, checks.max_repeats),
        Status.LOST_NAMES: _kept(text, texts) < checks.min_names,
    }
    return next((status for status, is_so in failed.items() if is_so), Status.OK)


def _kept(text: str, texts: Mapping[str, str]) -> float:
    return share_kept(" . ".join(map(inert, texts.values())), text)


def mark_repeated(judged: Sequence[tuple[Judged, str]], checks: Checks) -> list[Judged]:
    """Return the answers of a part, those that are given to too many different questions as `repeated`.

    Args:
        judged: each with the text that it was made of.
    """
    questions: dict[str, set[str]] = {}
    for one, asked in judged:
        if one.status is Status.OK:
            questions.setdefault(_plain(one.text), set()).add(_plain(asked))
    most = max(_FEW, int(checks.max_same * len(judged)))
    often = {text for text, asked in questions.items() if len(asked) > most}
    return [
        Judged(one.text, Status.REPEATED)
        if one.status is Status.OK and _plain(one.text) in often
        else one
        for one, _ in judged
    ]


def _is_echo(text: str, texts: Mapping[str, str]) -> bool:
    plain = _plain(text)
    return any(plain == _plain(known) for known in texts.values()) or any(
        phrase in plain for phrase in _leaks()
    )


@cache
def _leaks() -> tuple[str, ...]:
    """Return what tells that the question was said back: parts of its instructions, and answers of its examples."""
    sentences = (s for text in known_phrases() for s in re.split(r"[.:]\s", text))
    plain = {_plain(text) for text in sentences}
    return tuple(
        sorted(text for text in plain if len(text.split()) >= 5)
    )  # a shorter one may be chance


def _is_language(text: str, words: Sequence[str]) -> bool:
    if _MARKUP.search(text):
        return False
    signs = [character for character in text if not character.isspace()]
    letters = sum(character.isalpha() or character in "\u200c\u200d" for character in signs)
    marks = sum(not character.isalnum() for character in signs)
    if letters < _LETTERS * (len(signs) - min(marks, len(words))):
        return False
    return all(len(word) <= _LONGEST_WORD for word in words)


def _is_repeated(text: str, words: Sequence[str], most: int) -> bool:
    low = [word.casefold() for word in words]
    threes = Counter(zip(low, low[1:], low[2:], strict=False))
    in_a_row = any(len(set(low[n : n + 4])) == 1 for n in range(len(low) - 3))
    return in_a_row or max(threes.values(), default=0) > most or bool(_SAME_CHARACTER.search(text))


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
