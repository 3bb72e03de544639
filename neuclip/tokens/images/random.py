"""Patches drawn for each visit."""

import numpy as np
from jaxtyping import Int64

from neuclip.tokens.config import RandomPatchesConfig
from neuclip.tokens.images.policy import PatchPolicy, patches_kept


class Random(PatchPolicy):
    """Keeps n patches, every set of n with the same chance. Source: arXiv 2212.00794; CLIPA's `random`."""

    def __init__(self, config: RandomPatchesConfig, side: int) -> None:
        super().__init__(config, side)
        self.num_kept = patches_kept(config, side)

    def __call__(self, draws: np.random.Generator) -> Int64[np.ndarray, " n"]:
        """Return the patches with the n least of L random numbers."""
        order = np.argsort(draws.random(self.side * self.side), kind="stable")
        return np.sort(order[: self.num_kept])
