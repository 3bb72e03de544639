"""Zero-shot classification: the class whose prompts lie nearest.

Legend: N images, C classes, W weightings, D embedding width.
"""

import re

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neuclip.evaluation.kinds.kind import (
    Columns,
    Kind,
    Measured,
    Scoring,
    Weights,
    Why,
    mean,
    share,
    sums_by,
)
from neuclip.evaluation.zero_shot import class_features, nearest_classes, prompts_of
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample

LEAST_CLASSES_FOR_TOP_5 = 5
_LABEL = re.compile(rb"\s*\+?[0-9]{1,12}\s*")


class Classification(Kind):
    """An image against the classes of its set.

    Definition: acc-k is the share of images whose class is among the k that score best; of those whose class scores
    best, mean_per_class_recall is the mean over the classes that have images, and f1_macro the mean over the same
    classes of 2 right / (images + answers). Classes that score the same, as those of one name do, are told apart by
    torch.topk and torch.argmax: an image has k answers, no more and no fewer.

    Source: open_clip_train.zero_shot.accuracy, CLIP_benchmark, scikit-learn; tests/evaluation/test_ties.py,
    tests/evaluation/test_kinds.py.
    """

    name = dataset_type = "classification"
    suffixes = ("cls",)

    def metrics(self, suite: EvaluationSet) -> list[str]:
        """Return acc1, acc5 for five classes and more, mean_per_class_recall and f1_macro."""
        has_five = len(suite.classnames) >= LEAST_CLASSES_FOR_TOP_5
        return ["acc1", *(["acc5"] if has_five else []), "mean_per_class_recall", "f1_macro"]

    def wrong(self, sample: TarSample, suite: EvaluationSet) -> Why | None:
        """Refuse what is not the number of a class."""
        target = sample.parts["cls"]
        if _LABEL.fullmatch(target) and int(target) < len(suite.classnames):
            return None
        found = target[:40].decode("ascii", "replace")
        last = len(suite.classnames) - 1
        return (
            "bad_label",
            f"{sample.key}.cls holds {found!r}, expected 0 to {last}, the place of the class in classnames.txt counted "
            "from zero",
        )

    def texts(self, given: Scoring) -> list[str]:
        """Return the prompts of all classes."""
        return prompts_of(given.suite.classnames, given.suite.templates)

    def columns(self, given: Scoring) -> Columns:
        """Return each image's label, the class that scores best, and whether its own is among the five best."""
        suite = given.suite
        labels = torch.tensor([int(target) for target in given.targets("cls")])
        classes = class_features(
            given.towers, suite.classnames, suite.templates, batch_size=given.batch_size
        )
        return answers_of(given.features, classes, labels)

    def measure(self, columns: Columns, weights: Weights) -> Measured:
        """Return acc1, acc5 where it is told, mean_per_class_recall and f1_macro."""
        label, answer = columns["label"], columns["answer"]
        count = int(max(label.max(), answer.max(initial=0))) + 1
        ones = np.ones(len(label))
        images = sums_by(label, ones, weights, count)
        right = sums_by(label, (label == answer).astype(float), weights, count)
        answers = sums_by(answer, ones, weights, count)
        f1 = np.where(images > 0, share(2 * right, images + answers), np.nan)
        measured = {"acc1": mean(columns["is_right"], weights)}
        if "is_in_5" in columns:
            measured["acc5"] = mean(columns["is_in_5"], weights)
        measured["mean_per_class_recall"] = mean_of_known(share(right, images))
        measured["f1_macro"] = mean_of_known(f1)
        return measured

    def is_right(self, columns: Columns, metric: str) -> np.ndarray | None:
        """Return the images of acc1 and acc5; the other metrics are no share of images."""
        return columns.get({"acc1": "is_right", "acc5": "is_in_5"}.get(metric, ""))

    def chance(self, given: Scoring, metric: str) -> float:
        """Return the share of the classes that are answered."""
        return (5 if metric.startswith("acc5") else 1) / len(given.suite.classnames)


def answers_of(
    image_features: Float[Tensor, "N D"],
    classes: Float[Tensor, "C D"],
    labels: Int64[Tensor, " N"],
) -> dict[str, np.ndarray]:
    """Return label, answer, is_right and, for five classes and more, is_in_5 of each image.

    Raises: NumericsError: for features that are not finite.
    """
    has_five = len(classes) >= LEAST_CLASSES_FOR_TOP_5
    best, first = nearest_classes(image_features, classes, count=5 if has_five else 1)
    is_own: np.ndarray = (best == labels[:, None]).numpy()
    columns: dict[str, np.ndarray] = {"label": labels.numpy(), "answer": first.numpy()}
    columns["is_right"] = is_own[:, 0]
    if has_five:
        columns["is_in_5"] = np.asarray(is_own.any(axis=1))
    return columns


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row over what is not nan; nan where there is nothing."""
    is_known = ~np.isnan(values)
    return share(np.where(is_known, values, 0.0).sum(axis=1), is_known.sum(axis=1))
