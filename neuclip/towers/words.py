"""A bound on what open_clip's tokenizer remembers."""

from collections.abc import Mapping
from typing import Any

MOST_WORDS = 100_000


class RememberedWords(dict[str, str]):
    """Words and their byte pairs, forgotten all at once when they become too many.

    open_clip's SimpleTokenizer remembers every word it meets: a process that reads captions of the web would grow
    for ever.

    Args:
        first: entries that are always there.
        most: words after which all others are forgotten.
    """

    def __init__(self, first: Mapping[str, str], *, most: int = MOST_WORDS) -> None:
        super().__init__(first)
        self._first, self._most = dict(first), most

    def __setitem__(self, word: str, pairs: str) -> None:
        if len(self) >= self._most:
            self.clear()
            self.update(self._first)
        super().__setitem__(word, pairs)


def bound_memory(tokenizer: Any) -> None:  # noqa: ANN401  # open_clip's tokenizers share no type
    """Keep a tokenizer that remembers words from remembering ever more."""
    if isinstance(getattr(tokenizer, "cache", None), dict):
        tokenizer.cache = RememberedWords(tokenizer.cache)
