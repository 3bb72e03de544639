"""The learning rate at each step."""

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    least: float,
    warmup_steps: int,
    total_steps: int,
    schedule: Literal["cosine", "constant"] = "cosine",
    cooldown_steps: int = 0,
    cooldown_power: float = 1.0,
) -> float:
    """Return the rate of update `step` (0-based).

    Definition: peak (step + 1) / warmup_steps in warm-up. Then `cosine` goes down along half a cosine over
    all steps that are left, `constant` stays and in its last `cooldown_steps` goes down by the share of
    these that is left, to the power `cooldown_power`; both end at `least`.
    Source: open_clip_train.scheduler, tests/training/test_schedule.py.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "cosine":
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    else:
        left = (total_steps - step) / cooldown_steps if cooldown_steps else 1.0
        share = min(1.0, max(0.0, left)) ** cooldown_power
    return least + (peak - least) * share
