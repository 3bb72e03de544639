"""How far a score would move if other images had been drawn: intervals by bootstrap.

Legend: N images, W weightings.
"""

from collections.abc import Iterator

import numpy as np

from neuclip.evaluation.interval import Interval, middle
from neuclip.evaluation.kinds.kind import Columns, Kind, Weights

RESAMPLES = 1000
_MOST_AT_ONCE = 1 << 23
"""Weights of a part of the resamples: 64 MiB."""


def measure(kind: Kind, columns: Columns) -> dict[str, float]:
    """Return all metrics of a model on a set."""
    ones = np.ones((1, count_of(columns)))
    return {name: float(values[0]) for name, values in kind.measure(columns, ones).items()}


def intervals_of(kind: Kind, columns: Columns, *, suite_version: str) -> dict[str, Interval]:
    """Return the interval of every metric.

    Definition: the percentiles 2.5 and 97.5 over 1,000 draws of N images with replacement, each image with all that
    hangs on it, its captions or its group. Resamples without the metric (a group that was not drawn) are left out.

    Source: Efron's percentile bootstrap; against scipy.stats.bootstrap in tests/evaluation/test_bootstrap.py.
    """
    drawn = resampled(kind, columns, suite_version=suite_version)
    return {name: middle(values) for name, values in drawn.items() if not np.isnan(values).all()}


def resampled(kind: Kind, columns: Columns, *, suite_version: str) -> dict[str, np.ndarray]:
    """Return every metric of each resample; the same images are drawn for every model that is scored on a set."""
    parts = [
        kind.measure(columns, weights)
        for weights in _draws(count_of(columns), seed=int(suite_version, 16))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def count_of(columns: Columns) -> int:
    """Return the number of images."""
    return len(next(iter(columns.values())))


def _draws(count: int, *, seed: int) -> Iterator[Weights]:
    """Yield how often each of `count` images is drawn, for all resamples in parts."""
    random = np.random.default_rng(seed)
    at_once = max(1, _MOST_AT_ONCE // count)
    for first in range(0, RESAMPLES, at_once):
        draws = range(min(at_once, RESAMPLES - first))
        yield np.stack(
            [np.bincount(random.integers(count, size=count), minlength=count) for _ in draws]
        ).astype(np.float64)
