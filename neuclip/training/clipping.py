"""What the encoders' gradient is limited to."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuclip.training.clip_config import GradClip, MedianClip
from neuclip.training.medians import known_of, median, no_numbers, window_of, with_number


class GradientClip:
    """Scales a gradient down where its norm is beyond a limit.

    Definition: gradient <- gradient min(1, limit / norm); the limit is fixed, or `times` the median of the norms of the
    last 64 good updates. The first update has none before it and stays as it is.

    Source: torch's clip_grad_norm_; tests/training/test_clipping.py.
    """

    def __init__(self, config: GradClip | None, device: torch.device) -> None:
        self._config = config
        self._norms = no_numbers(device)

    def apply(self, parameters: Sequence[nn.Parameter], norm: Tensor, *, is_bad: Tensor) -> Tensor:
        """Limit the gradients in place, without a wait for the device; return whether the limit acted.

        Args:
            norm: of all their gradients, whole where they are shared out.
            is_bad: above 0 if the batch moves nothing: its norm is not remembered.
        """
        if self._config is None:
            return torch.zeros_like(norm, dtype=torch.bool)
        limit = self._limit(norm)
        if isinstance(self._config, MedianClip):
            is_kept = torch.isfinite(norm) & (is_bad == 0)
            self._norms = with_number(self._norms, norm, is_kept=is_kept)
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)  # pyright: ignore[reportArgumentType]  # it divides
        return norm > limit

    def state(self) -> Tensor:
        """Return what a checkpoint needs to hold."""
        return known_of(self._norms)

    def load_state(self, norms: Tensor) -> None:
        """Take the state back."""
        self._norms = window_of(norms, self._norms.device)

    def _limit(self, norm: Tensor) -> float | Tensor:
        if not isinstance(self._config, MedianClip):
            assert self._config is not None
            return self._config.norm
        before = median(self._norms).to(norm.dtype)
        return torch.where(before.isnan(), torch.inf, self._config.times * before)
