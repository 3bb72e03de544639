"""What a kind of evaluation sets is: what a sample is held against, what is noted of each image, and in which metrics.

Legend: N images that are scored, W weightings of them, D embedding width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample
from neuclip.towers.towers import Towers

Why = tuple[str, str]
"""A reason, and in words what was found."""
Columns = Mapping[str, np.ndarray]
"""What is noted of each image: columns of N rows. All metrics follow from them."""
Weights = Float64[np.ndarray, "W N"]
"""How often each image counts: once for a score, as drawn for an interval."""
Measured = dict[str, Float64[np.ndarray, " W"]]
"""Metrics as shares of 0..1, for each weighting."""


@dataclass(frozen=True)
class Scoring:
    """What a model is scored on.

    Args:
        features: unit-norm features of the images, [N, D].
        samples: their samples, whose pictures are left out.
    """

    towers: Towers
    suite: EvaluationSet
    features: Float[Tensor, "N D"]
    samples: Sequence[TarSample]
    batch_size: int

    def targets(self, suffix: str) -> list[bytes]:
        """Return a member of each sample."""
        return [sample.parts[suffix] for sample in self.samples]


class Kind(ABC):
    """A kind of sets."""

    name: str
    dataset_type: str
    """As `dataset_type.txt` has it; a set without that file is of type classification."""
    suffixes: tuple[str, ...]
    """Of the members that an image is held against; a sample that lacks one is not scored."""

    @abstractmethod
    def metrics(self, suite: EvaluationSet) -> list[str]:
        """Return the metrics that such a set can be told by; the first is the default."""

    @abstractmethod
    def wrong(self, sample: TarSample, suite: EvaluationSet) -> Why | None:
        """Tell why a sample that has all members cannot be scored, None if it can."""

    @abstractmethod
    def texts(self, given: Scoring) -> list[str]:
        """Return all texts that are encoded for it."""

    @abstractmethod
    def columns(self, given: Scoring) -> Columns:
        """Score a model: return what is noted of each image.

        Raises: NumericsError: for features that are not finite.
        """

    @abstractmethod
    def measure(self, columns: Columns, weights: Weights) -> Measured:
        """Return all metrics of weighted images; nan where no image counts."""

    def is_right(self, columns: Columns, metric: str) -> np.ndarray | None:  # noqa: ARG002
        """Return which images are right, if a metric is their share, None if it is no such share."""
        return None

    @abstractmethod
    def chance(self, given: Scoring, metric: str) -> float:
        """Return what a metric would be of random answers."""


def mean(values: np.ndarray, weights: Weights) -> Float64[np.ndarray, " W"]:
    """Return the weighted mean of a number of each image."""
    return share(weights @ values.astype(np.float64), weights.sum(axis=1))


def share(of: Any, among: Any) -> np.ndarray:  # noqa: ANN401  # arrays of any shape
    """Return a quotient, nan for nothing among nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(of / among)


def sums_by(groups: np.ndarray, values: np.ndarray, weights: Weights, count: int) -> np.ndarray:
    """Return the weighted sums of a number of each image by group, [W, count].

    Args:
        groups: of each image, 0 to count - 1.
    """
    order = np.argsort(groups, kind="stable")
    ends = np.searchsorted(groups[order], np.arange(count), side="right")
    terms = (weights * values)[:, order]
    upto = np.concatenate([np.zeros((len(weights), 1)), terms.cumsum(axis=1)], axis=1)[:, ends]
    return np.diff(upto, axis=1, prepend=0)
