"""Batches that must not move the weights: a number that is not finite, or a loss that is a spike.

The judgement is made on the device, where the numbers are, and read one step later, so that no step waits for it.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from neuclip.distributed.collectives import all_reduce_sum_, gather_objects
from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError
from neuclip.training.config import TrainConfig
from neuclip.training.medians import known_of, median, no_numbers, window_of, with_number

log = logging.getLogger(__name__)

_LEAST_LOSSES = 16
_SIGMA_OVER_MAD = 1.4826  # of a normal distribution
_MOST_IDS = 8


@dataclass(frozen=True)
class Verdict:
    """What was found of one batch, on its way to main memory.

    Args:
        step: of the update, from 0.
        names: of the numbers; the first is the nearest to a cause.
        numbers: this rank's, then how many ranks have one that is not finite, then loss, median and deviation.
        sample_ids: of the batch, in main memory.
    """

    step: int
    names: list[str]
    numbers: Tensor
    sample_ids: Tensor
    copied: torch.cuda.Event | None

    def read(self) -> list[float]:
        """Wait until the numbers have come, which they have a step later."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.numbers.tolist()


class LossGuard:
    """Judges every batch before the update, and counts the batches that were passed over.

    A loss is a spike if it is more than `train.spike_sigmas` standard deviations above the median of the last 64
    accepted losses, of which at least 16 must be known; the deviation is 1.48 times their median absolute
    deviation, which earlier spikes do not widen. All it goes by is in its state, so a resumed run judges like
    an undisturbed one.
    """

    def __init__(self, config: TrainConfig, world: World) -> None:
        self._sigmas, self._limit, self._world = config.spike_sigmas, config.max_bad_batches, world
        self._losses = no_numbers(world.device)
        self.passed_over: list[int] = []
        """Steps (0-based) whose batches moved nothing."""

    @torch.no_grad()
    def judge(
        self, numbers: Mapping[str, Tensor], loss: Tensor | None, sample_ids: Tensor, *, step: int
    ) -> tuple[Tensor, Verdict]:
        """Say whether a batch is bad, 1.0 or 0.0 on the device and the same on every rank; and what to read later.

        Args:
            numbers: scalars by name, the first being the nearest to a cause.
            loss: mean over ranks, to be judged as a spike; none is not.
            sample_ids: of the batch, in main memory.
        """
        values = torch.stack([number.detach().float() for number in numbers.values()])
        num_bad = all_reduce_sum_((~torch.isfinite(values)).float(), self._world)
        is_bad = num_bad.any()
        of_loss = torch.zeros(3, dtype=torch.float64, device=values.device)
        if self._sigmas is not None and loss is not None:
            is_spike, of_loss = self._judge_loss(loss, self._sigmas)
            is_bad = is_bad | is_spike
        told = torch.cat([values.double(), num_bad.double(), of_loss, is_bad.double()[None]])
        told = told.to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if values.is_cuda else None
        if copied is not None:
            copied.record()
        return is_bad.float(), Verdict(step, list(numbers), told, sample_ids, copied)

    def require_good(self, verdict: Verdict) -> None:
        """Go on only if the batch was good; every rank calls it.

        Raises: NumericsError: on every rank, naming the first number that is not finite, its ranks and their samples,
            or the spike.
        """
        told = verdict.read()
        if not told[-1]:
            return
        count = len(verdict.names)
        if any(told[count : 2 * count]):
            _refuse(verdict, told[:count], self._world)
        loss, middle, sigma = told[2 * count : 2 * count + 3]
        raise NumericsError(
            f"the loss at step {verdict.step} is {loss:.4g}, more than train.spike_sigmas {self._sigmas:g} times "
            f"{sigma:.2g} above the median {middle:.4g} of the losses before; sample ids "
            f"{verdict.sample_ids[:_MOST_IDS].tolist()}",
            step=verdict.step,
        )

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
            "losses": known_of(self._losses),
            "passed_over": torch.tensor(self.passed_over, dtype=torch.int64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the state back."""
        self._losses = window_of(state["losses"], self._losses.device)
        self.passed_over = state["passed_over"].tolist()

    def _judge_loss(self, loss: Tensor, sigmas: float) -> tuple[Tensor, Tensor]:
        """Tell whether a loss is a spike, and (loss, median, deviation); an accepted loss is remembered."""
        known = self._losses
        loss = loss.double()
        middle = median(known)
        sigma = _SIGMA_OVER_MAD * median((known - middle).abs())
        is_enough = (~known.isnan()).sum() >= _LEAST_LOSSES
        is_spike = is_enough & (loss > middle + sigmas * sigma)
        self._losses = with_number(known, loss, is_kept=torch.isfinite(loss) & ~is_spike)
        return is_spike, torch.stack([loss, middle, sigma])


def _refuse(verdict: Verdict, values: list[float], world: World) -> NoReturn:
    ranks = gather_objects((values, verdict.sample_ids[:_MOST_IDS].tolist()), world)
    is_bad = [[not math.isfinite(value) for value in found] for found, _ in ranks]
    first = next(place for place in range(len(values)) if any(bad[place] for bad in is_bad))
    places = ", ".join(
        f"{found[first]} on rank {rank} at step {verdict.step}, sample ids {ids}..."
        for rank, (found, ids) in enumerate(ranks)
        if is_bad[rank][first]
    )
    raise NumericsError(
        f"the {verdict.names[first]} is {places}; lower train.lr or lengthen train.warmup_steps, then run again: "
        "training resumes from the last checkpoint",
        step=verdict.step,
    )
