"""What a tokenizer makes of a text before it cuts it: the ids of its content, and the special tokens around them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from neuclip.foundation.errors import ConfigError

_PROBE = " ".join("abcdefghijklmnopqrstuvwxyz" * 40)
"""A text that is longer than any context, with an order in it."""
_MOST_SPECIALS = 8


class Contents:
    """The content ids of texts, and how a full context is put together of them.

    Definition: a text that is too long becomes `prefix`, `room` content ids, `suffix`. All three are read off what the
    tokenizer itself makes of a long text, so that its first `room` ids give its own output.

    Args:
        tokenize: one of open_clip's two tokenizers.
    Raises: ConfigError: if it is another one, or has no room for content.
    """

    def __init__(self, tokenize: Any) -> None:  # noqa: ANN401  # open_clip's tokenizers share no type
        self._tokenize = tokenize
        if not isinstance(tokenize, SimpleTokenizer | HFTokenizer):
            raise ConfigError(
                f"train.text_tokens chooses tokens of a tokenizer's content, and {type(tokenize).__name__} is none of "
                "open_clip's two kinds of tokenizers; leave train.text_tokens out"
            )
        whole: list[int] = tokenize([_PROBE])[0].tolist()
        content = self.ids([_PROBE])[0]
        start = next((n for n, found in enumerate(whole) if found == content[0]), len(whole))
        room = 0
        while start + room < len(whole) and whole[start + room] == content[room]:
            room += 1
        if room < 1 or len(whole) - room > _MOST_SPECIALS:
            raise ConfigError(
                f"a context of {len(whole)} tokens leaves no room for content beside the tokenizer's special tokens; "
                "raise train.context_length, or leave train.text_tokens out"
            )
        self.room = room
        self.prefix, self.suffix = whole[:start], whole[start + room :]
        empty: list[int] = tokenize([""])[0].tolist()
        self._end = self.suffix[0] if self.suffix else empty[-1]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return all content ids of each text, without special tokens."""
        if isinstance(self._tokenize, SimpleTokenizer):
            return [self._tokenize.encode(text) for text in texts]
        cleaned = [self._tokenize.clean_fn(text) for text in texts]
        return self._tokenize.tokenizer(cleaned, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]

    def vocabulary(self) -> dict[str, int]:
        """Return every token's id."""
        if isinstance(self._tokenize, SimpleTokenizer):
            return self._tokenize.encoder
        return self._tokenize.tokenizer.get_vocab()

    def content_ids(self) -> set[int]:
        """Return every id that is no special token's."""
        specials = {*self.prefix, *self.suffix}
        if isinstance(self._tokenize, SimpleTokenizer):
            specials |= set(self._tokenize.all_special_ids)
        else:
            specials |= set(self._tokenize.tokenizer.all_special_ids)
        return set(self.vocabulary().values()) - specials

    def span(self, row: Int64[np.ndarray, " L"]) -> tuple[int, int]:
        """Return where the content of a text begins among its tokens, and where it has ended."""
        first = len(self.prefix)
        ends = np.flatnonzero(row[first:] == self._end)
        return first, first + int(ends[0]) if len(ends) else len(row) - len(self.suffix)

    def full(self, content: Sequence[int]) -> Int64[Tensor, " L"]:
        """Return a full context around `room` content ids."""
        return torch.tensor([*self.prefix, *content, *self.suffix])
