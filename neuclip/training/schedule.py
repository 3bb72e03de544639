"""The learning rate at each step."""

import math


def learning_rate(
    step: int, *, peak: float, least: float, warmup_steps: int, total_steps: int
) -> float:
    """Return the rate of update `step` (0-based): linear warm-up, then half a cosine down to `least`.

    Source: open_clip's and FastCLIP's schedule, lr (step + 1) / warmup, then cosine over the rest.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
