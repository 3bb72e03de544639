"""Zero-shot classification where an image may have several classes, or none.

Legend: N images, C classes, W weightings.
"""

import numpy as np
import torch

from neuclip.evaluation.kinds.classification import Classification, mean_of_known
from neuclip.evaluation.kinds.kind import Columns, Measured, Scoring, Weights, Why, share
from neuclip.evaluation.kinds.numbers import numbers_of
from neuclip.evaluation.zero_shot import class_features, scores_of
from neuclip.foundation.errors import DataError
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample


class Multilabel(Classification):
    """Each class among all images, by how well they score for it.

    Definition: mean_average_precision is the mean, over the classes that have images, of the sum over thresholds of
    (recall - recall at the threshold above) times precision; images that score the same share a threshold.

    Source: scikit-learn's average_precision_score, which CLIP_benchmark's equals without ties;
    tests/evaluation/test_kinds.py.
    """

    name = dataset_type = "multilabel"
    suffixes = ("npy",)

    def metrics(self, suite: EvaluationSet) -> list[str]:
        """Return mean_average_precision."""
        del suite
        return ["mean_average_precision"]

    def wrong(self, sample: TarSample, suite: EvaluationSet) -> Why | None:
        """Refuse what is not a 0 or 1 for each class."""
        try:
            found = numbers_of(sample)
        except DataError as error:
            return "bad_label", str(error)
        if len(found) == len(suite.classnames) and np.isin(found, (0, 1)).all():
            return None
        return (
            "bad_label",
            f"{sample.key}.npy has {len(found)} numbers from {found.min(initial=0)} to {found.max(initial=0)}, "
            f"expected a 0 or 1 for each of the {len(suite.classnames)} classes",
        )

    def columns(self, given: Scoring) -> Columns:
        """Return each image's score for each class, and whether it is of that class."""
        suite = given.suite
        classes = class_features(
            given.towers, suite.classnames, suite.templates, batch_size=given.batch_size
        )
        scores = torch.cat(list(scores_of(given.features, classes)))
        labels = [numbers_of(sample) for sample in given.samples]
        return {"scores": scores.numpy(), "is_of": np.stack(labels).astype(bool)}

    def measure(self, columns: Columns, weights: Weights) -> Measured:
        """Return mean_average_precision."""
        sides = zip(columns["scores"].T, columns["is_of"].T, strict=True)
        precisions = [average_precision(scores, is_of, weights) for scores, is_of in sides]
        return {"mean_average_precision": mean_of_known(np.stack(precisions, axis=1))}

    def chance(self, given: Scoring, metric: str) -> float:
        """Return the mean share of images of a class, which an order at random has as precision."""
        del metric
        shares = np.mean([numbers_of(sample) for sample in given.samples], axis=0)
        return float(shares[shares > 0].mean()) if shares.any() else 0.0


def average_precision(scores: np.ndarray, is_of: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the average precision of one class for each weighting; nan where no image of it counts."""
    order = np.argsort(-scores, kind="stable")
    is_last = np.append(np.diff(scores[order]) != 0, True)  # of those that score the same
    found = (weights * is_of)[:, order].cumsum(axis=1)[:, is_last]
    seen = weights[:, order].cumsum(axis=1)[:, is_last]
    precision = np.where(seen > 0, share(found, seen), 0.0)
    steps = np.diff(found, axis=1, prepend=0)
    return share((precision * steps).sum(axis=1), found[:, -1])
