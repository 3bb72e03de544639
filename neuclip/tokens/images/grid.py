"""One patch of every window of 2 x 2."""

import numpy as np
from jaxtyping import Int64

from neuclip.foundation.errors import ConfigError
from neuclip.tokens.config import GridConfig
from neuclip.tokens.images.policy import PatchPolicy


class Grid(PatchPolicy):
    """Keeps L / 4 patches. Source: CLIPA's figure, which keeps the one at the top left."""

    def __init__(self, config: GridConfig, side: int) -> None:
        super().__init__(config, side)
        if side % 2:
            raise ConfigError(
                f"image_tokens: grid keeps one patch of every 2 x 2, and the image has {side} x {side} patches; take "
                f"an image_px of {side - 1 or 2} or {side + 1} patches a side, or another policy"
            )
        self._windows = side // 2
        self.num_kept = self._windows**2

    def __call__(self, draws: np.random.Generator) -> Int64[np.ndarray, " n"]:
        """Return one patch of each window."""
        shape = (self._windows, self._windows)
        is_drawn = self.config.place == "drawn"
        corner = draws.integers(4, size=shape) if is_drawn else np.zeros(shape, dtype=np.int64)
        rows = 2 * np.arange(self._windows)[:, None] + corner // 2
        columns = 2 * np.arange(self._windows)[None, :] + corner % 2
        return np.sort((rows * self.side + columns).ravel())
