"""The tokens of a text that say most of an image: nouns, then adjectives, then verbs."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from neuclip.tokens.config import SyntaxConfig
from neuclip.tokens.priorities import priorities_of
from neuclip.tokens.texts.policy import ChosenTokens


class Syntax(ChosenTokens):
    """Keeps the m tokens that come first by (priority, place). Draws nothing.

    Source: CLIPA's `syntax` in its form for TPUs, a table over the vocabulary; with ties taken in order.
    Raises: ConfigError: if there is no table for the tokenizer's vocabulary.
    """

    def __init__(
        self, config: SyntaxConfig, tokenize: Callable[[list[str]], Int64[Tensor, "N L"]]
    ) -> None:
        super().__init__(config, tokenize)
        self._priorities = priorities_of(self.contents.vocabulary(), config.table)

    def choose(
        self, ids: Sequence[int], count: int, draws: Callable[[], np.random.Generator]
    ) -> Int64[np.ndarray, " m"]:
        """Return the places of the most important tokens."""
        del draws
        return first_by_priority(self._priorities[np.asarray(ids)], count)


def first_by_priority(priorities: Int64[np.ndarray, " n"], count: int) -> Int64[np.ndarray, " m"]:
    """Return the places of the least numbers, of equals the first ones, ascending."""
    return np.sort(np.argsort(priorities, kind="stable")[:count])
