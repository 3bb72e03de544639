"""One run of neighbouring tokens of a text."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from neuclip.tokens.texts.policy import ChosenTokens


class Block(ChosenTokens):
    """Keeps m neighbours, which begin anywhere with the same chance, the last place at which they fit included."""

    def choose(
        self, ids: Sequence[int], count: int, draws: Callable[[], np.random.Generator]
    ) -> Int64[np.ndarray, " m"]:
        """Return the places of the run."""
        first = int(draws().integers(len(ids) - count + 1))
        return np.arange(first, first + count)
