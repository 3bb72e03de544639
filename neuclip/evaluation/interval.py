"""What most of many values lie between."""

from typing import NamedTuple

import numpy as np

_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """The middle 95 % of a score over draws of other images, shares of 0..1."""

    low: float
    high: float


def middle(values: np.ndarray) -> Interval:
    """Return what the middle 95 % of values lie between; those that are nan are left out."""
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))
