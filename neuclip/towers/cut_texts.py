"""How many texts are longer than a model reads: they are scored by their beginning, and that is told."""

from collections.abc import Sequence
from typing import Any, cast

from neuclip.towers.towers import Towers

_TIMES = 8
"""Context lengths that a text is looked at; one that is longer still counts all the same."""
_AT_ONCE = 1024


def count_cut(towers: Towers, texts: Sequence[str]) -> int:
    """Count the texts that the towers' tokenizer cuts; none of a tokenizer that does not say how long texts may be."""
    tokenize = cast("Any", towers.tokenize)
    if hasattr(tokenize, "count_cut"):
        return int(tokenize.count_cut(texts))
    most: int | None = getattr(tokenize, "context_length", None)
    if most is None:
        return 0
    filling = getattr(getattr(tokenize, "tokenizer", None), "pad_token_id", 0)
    cut = 0
    for first in range(0, len(texts), _AT_ONCE):
        some = list(texts[first : first + _AT_ONCE])
        beyond = tokenize(some, context_length=_TIMES * most)[:, most:]
        cut += int((beyond != filling).any(dim=1).sum())
    return cut
