"""The phases of a run: which updates each has, and with what settings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neuclip.training.config import TrainConfig


@dataclass(frozen=True)
class Phase:
    """Updates first .. last-1 of a run, which are done with the same settings.

    Args:
        number: of the phase, from 0.
        config: the recipe's section with this phase's settings as its flat fields.
        first: update the phase begins with.
        last: update the next phase begins with.
        samples_before: samples that were seen before it.
    """

    number: int
    config: TrainConfig
    first: int
    last: int
    samples_before: int

    @property
    def warm_up(self) -> range:
        """Return the updates of its warm-up, each by how many are completed with it."""
        return range(self.first + 1, self.first + 1 + self.config.warmup_steps)

    def samples_seen(self, step: int) -> int:
        """Return the samples that all ranks have seen after `step` updates of the run."""
        return self.samples_before + (step - self.first) * self.config.global_batch


def plan_phases(config: TrainConfig, num_samples: int) -> list[Phase]:
    """Return the phases of a run over a data set, one where the recipe names none.

    A phase ends with the batch in which its last epoch ends; what that reaches into the epoch after counts for the
    next phase, so two phases of 10 epochs are as long as one of 20.
    """
    phases: list[Phase] = []
    step, seen, epochs = 0, 0, 0.0
    for number, flat in enumerate(config.by_phase()):
        epochs += flat.epochs
        steps = max(1, math.ceil((epochs * num_samples - seen) / flat.global_batch))
        steps = steps if flat.epochs else 0
        phases.append(Phase(number, flat, step, step + steps, seen))
        step, seen = step + steps, seen + steps * flat.global_batch
    return phases


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """Return the phase of update `step`; after the last update the last phase."""
    return next((phase for phase in phases if step < phase.last), phases[-1])
