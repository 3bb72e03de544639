"""What every policy for patches is to the loader.

Legend: L patches of an image, n of them that are kept.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Int64

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.modules import the_class_in
from neuclip.tokens.config import BlockConfig, ImageTokensConfig, RandomPatchesConfig, ResizeConfig


class PatchPolicy(ABC):
    """Chooses patches of a square grid, numbered row by row from 0.

    Args:
        config: its recipe section.
        side: patches along a side of the image; L = side * side.
    Raises: ConfigError: if the grid does not fit the policy.
    """

    num_kept: int
    """n, the same for every image."""

    def __init__(self, config: Any, side: int) -> None:  # noqa: ANN401  # each policy's own section
        self.config, self.side = config, side

    @abstractmethod
    def __call__(self, draws: np.random.Generator) -> Int64[np.ndarray, " n"]:
        """Return the patches of one visit in ascending order, each once.

        Args:
            draws: the random numbers of this visit, see `loading.visits`.
        """


def build_patch_policy(config: ImageTokensConfig, side: int) -> PatchPolicy | None:
    """Make the policy that a section names; None if all patches are kept.

    Raises: ConfigError: if the grid does not fit it.
    """
    if isinstance(config, ResizeConfig):
        return None
    policy: PatchPolicy = the_class_in(f"neuclip.tokens.images.{config.name}", PatchPolicy)(
        config, side
    )
    return policy if policy.num_kept < side * side else None


def patches_kept(config: RandomPatchesConfig | BlockConfig, side: int) -> int:
    """Return how many patches a share is, by exact arithmetic.

    Definition: floor(L keep + 1/2), or floor(L keep) by `rounding: floor`.
    Raises: ConfigError: if that is less than one patch.
    """
    wanted = side * side * config.keep
    if wanted < 1:
        raise ConfigError(
            f"image_tokens.keep {config.keep} of {side} x {side} patches is {float(wanted):.2g} patches; at least one "
            f"is needed, a share of 1/{side * side} or more"
        )
    return math.floor(wanted) if config.rounding == "floor" else math.floor(2 * wanted + 1) // 2
