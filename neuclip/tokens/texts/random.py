"""Tokens of a text drawn for each visit."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from neuclip.tokens.texts.policy import ChosenTokens


class Random(ChosenTokens):
    """Keeps any m tokens with the same chance. Source: CLIPA's `random`, whose released forms mix up the order."""

    def choose(
        self, ids: Sequence[int], count: int, draws: Callable[[], np.random.Generator]
    ) -> Int64[np.ndarray, " m"]:
        """Return the places with the m least of random numbers."""
        order = np.argsort(draws().random(len(ids)), kind="stable")
        return np.sort(order[:count])
