"""Zero-shot classification told by the group of images on which a model is worst.

Legend: N images, W weightings, K groups.
"""

import numpy as np

from neuclip.evaluation.kinds.classification import Classification
from neuclip.evaluation.kinds.kind import Columns, Measured, Scoring, Weights, Why, share, sums_by
from neuclip.evaluation.kinds.numbers import numbers_of
from neuclip.foundation.errors import DataError
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample

WORST_GROUP = "_worst_group"
_FMOW, _OTHER_REGION = "fmow", 5


class Grouped(Classification):
    """Classes as in classification; the first number of an image's .npy is its group.

    Definition: acc1_worst_group and acc5_worst_group are the least acc1 and acc5 over the groups that have images;
    FMoW's region "Other" is none of them.

    Source: WILDS and the fairness sets of DataComp; tests/evaluation/test_kinds.py.
    """

    name = "grouped"
    suffixes = ("cls", "npy")

    def metrics(self, suite: EvaluationSet) -> list[str]:
        """Return what classification has, acc1 and acc5 in the worst group first."""
        plain = super().metrics(suite)
        return [f"{name}{WORST_GROUP}" for name in plain if name.startswith("acc")] + plain

    def wrong(self, sample: TarSample, suite: EvaluationSet) -> Why | None:
        """Refuse what is not the number of a class, and an image without a group."""
        why = super().wrong(sample, suite)
        if why is not None:
            return why
        try:
            found = numbers_of(sample)
        except DataError as error:
            return "bad_group", str(error)
        if len(found) and found[0] >= 0:
            return None
        return "bad_group", f"{sample.key}.npy does not begin with the number of a group from 0"

    def columns(self, given: Scoring) -> Columns:
        """Return what classification has, and each image's group, -1 for those that are of none."""
        groups = np.array([numbers_of(sample)[0] for sample in given.samples])
        if _FMOW in given.suite.name.lower():
            groups[groups == _OTHER_REGION] = -1
        return {**super().columns(given), "group": groups}

    def measure(self, columns: Columns, weights: Weights) -> Measured:
        """Return what classification has, and acc1 and acc5 in the worst group."""
        measured = super().measure(columns, weights)
        names, groups = np.unique(columns["group"], return_inverse=True)
        images = sums_by(groups, np.ones(len(groups)), weights, len(names))
        for metric, column in (("acc1", "is_right"), ("acc5", "is_in_5")):
            if column in columns:
                right = sums_by(groups, columns[column].astype(float), weights, len(names))
                of_group = share(right, images)
                of_group[:, names < 0] = np.nan
                worst = np.where(np.isnan(of_group), np.inf, of_group).min(axis=1)
                measured[f"{metric}{WORST_GROUP}"] = np.where(np.isinf(worst), np.nan, worst)
        return measured
