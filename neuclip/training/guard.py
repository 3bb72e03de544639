"""Losses that should stop a run, or at least not move its weights: not finite, or a spike."""

import logging
import math
import statistics
from collections import deque

import torch
from torch import Tensor

from neuclip.foundation.errors import NumericsError
from neuclip.training.config import TrainConfig

log = logging.getLogger(__name__)

_WINDOW = 64
_LEAST_LOSSES = 16
_SIGMA_OVER_MAD = 1.4826  # of a normal distribution


class LossGuard:
    """Judges the loss of every batch before the update, and counts the batches that were passed over.

    A loss is a spike if it is more than `train.spike_sigmas` standard deviations above the median of the last 64
    accepted losses, of which at least 16 must be known; the deviation is 1.48 times their median absolute
    deviation, which earlier spikes do not widen. All it goes by is in its state, so a resumed run judges like
    an undisturbed one.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._sigmas, self._limit = config.spike_sigmas, config.max_bad_batches
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self.passed_over: list[int] = []
        """Steps (0-based) whose batches moved nothing."""

    def judge(self, loss: float, *, step: int, sample_ids: list[int]) -> None:
        """Accept a loss.

        Args:
            loss: mean over ranks.
            sample_ids: of the batch, for the message.
        Raises: NumericsError: if it is a spike; the weights are as before then.
        """
        known = self._losses
        if self._sigmas is not None and len(known) >= _LEAST_LOSSES:
            median = statistics.median(known)
            sigma = _SIGMA_OVER_MAD * statistics.median(abs(x - median) for x in known)
            if loss > median + self._sigmas * sigma:
                raise NumericsError(
                    f"the loss at step {step} is {loss:.4g}, more than train.spike_sigmas {self._sigmas:g} times "
                    f"{sigma:.2g} above the median {median:.4g} of the {len(known)} before; sample ids "
                    f"{sample_ids}"
                )
        if math.isfinite(loss):
            known.append(loss)

    def pass_over(self, first: int, last: int, reason: NumericsError) -> None:
        """Note that the batches of steps first .. last move nothing.

        Raises: NumericsError: if the recipe allows no more of them.
        """
        self.passed_over += range(first, last + 1)
        if len(self.passed_over) > self._limit:
            raise NumericsError(
                f"{reason}. {len(self.passed_over)} batches would have been passed over by now, more than "
                f"train.max_bad_batches {self._limit} allows; lower train.lr, lengthen train.warmup_steps or look at "
                "these samples"
            ) from reason
        which = f"batch of step {first}" if first == last else f"batches of steps {first} to {last}"
        log.warning("%s passed over: %s", which, reason)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs to hold."""
        return {
            "losses": torch.tensor(list(self._losses), dtype=torch.float64),
            "passed_over": torch.tensor(self.passed_over, dtype=torch.int64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the state back."""
        self._losses = deque(state["losses"].tolist(), maxlen=_WINDOW)
        self.passed_over = state["passed_over"].tolist()
