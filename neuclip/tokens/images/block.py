"""One rectangle of patches."""

import numpy as np
from jaxtyping import Int64

from neuclip.foundation.errors import ConfigError
from neuclip.tokens.config import BlockConfig
from neuclip.tokens.images.policy import PatchPolicy, patches_kept


class Block(PatchPolicy):
    """Keeps a full rectangle of n patches, as square as n allows, lying or standing and anywhere with the same chance.

    Source: CLIPA's docs; there is no public code of it.
    """

    def __init__(self, config: BlockConfig, side: int) -> None:
        super().__init__(config, side)
        self.num_kept = patches_kept(config, side)
        sides = _sides(self.num_kept, side)
        if sides is None:
            fitting = [n for n in range(1, side * side + 1) if _sides(n, side)]
            below = max(n for n in fitting if n < self.num_kept)
            above = min(n for n in fitting if n > self.num_kept)
            raise ConfigError(
                f"image_tokens: block of {self.num_kept} patches is no rectangle within {side} x {side}; the nearest "
                f"numbers that are have keep {below}/{side * side} and {above}/{side * side}"
            )
        self._sides = sides

    def __call__(self, draws: np.random.Generator) -> Int64[np.ndarray, " n"]:
        """Return the patches of the rectangle."""
        turned, from_top, from_left = draws.random(3)
        height, width = self._sides if turned < 0.5 else self._sides[::-1]
        top = int(from_top * (self.side - height + 1))
        left = int(from_left * (self.side - width + 1))
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        return (rows[:, None] * self.side + columns[None, :]).ravel()


def _sides(area: int, most: int) -> tuple[int, int] | None:
    """Return the most equal sides of a rectangle of an area, the shorter one first; None if the longer is too long."""
    shorter = next(n for n in range(int(area**0.5), 0, -1) if area % n == 0)
    return (shorter, area // shorter) if area // shorter <= most else None
