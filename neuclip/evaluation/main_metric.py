"""The one metric that a set is told by: what the set declares, what is known of it, or its kind's first.

A number means what others mean by it only in the metric that they report: DataComp tells iWildCam by a macro F1 and
Dollar Street by its worst group, and acc1 under their names would be another number.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from neuclip.foundation.errors import DataError
from neuclip.loading.evaluation_sets import METRIC_FILE, TYPE_FILE, EvaluationSet
from neuclip.storage.files import exists
from neuclip.storage.uris import join, name_of

if TYPE_CHECKING:
    from neuclip.evaluation.kinds.kind import Kind

_KNOWN = {
    "acc1": "camelyon17 cars cifar10 cifar100 clevrclosestobjectdistance clevrcountall country211 dtd eurosat food101 "
    "gtsrb imagenet1k imageneta imageneto imagenetr imagenetsketch imagenetv2 kitticlosestvehicledistance mnist "
    "objectnet pcam renderedsst2 resisc45 stl10 sun397 svhn voc2007",
    "mean_per_class_recall": "caltech101 fgvcaircraft flowers flowers102 iiitpet iiitpets pet pets",
    "mean_recall_at_1": "flickr30k mscoco20145kimagetext mscococaptions",
    "f1_macro": "iwildcam iwildcam2020",
    "acc1_worst_group": "fmow geode",
    "acc5_worst_group": "dollarstreet",
}
_KNOWN_ELSEWHERE = {
    "jaccard_score_10-12": "winogavil",
    "accuracies by group": "fairface utkface",
}
"""Main metric -> the sets that are told by it, without suite, split and version; the second are not computed here.
Source: tasklist.yml of DataComp."""

_OTHER_NAMES = {
    "f1-macro_all": "f1_macro",
    "acc_worst_region": "acc1_worst_group",
    "acc_wg": "acc1_worst_group",
    "acc_top5_wg": "acc5_worst_group",
    "map": "mean_average_precision",
}
"""As DataComp and CLIP_benchmark write them."""

_NO_NAME = (
    "wds vtab wilds fairness misc retrieval oxford test val valid validation train id ood 0 1 v1 v2"
)
"""What stands beside the name of a set: suite, split, version."""


class MainMetric(NamedTuple):
    """A metric, and why it is this one."""

    name: str
    source: Literal["declared", "known", "default"]
    """declared: by main_metric.txt of the set; known: as DataComp tells the set; default: neither."""
    kind: "Kind"
    """Of the set: the first of its name that has this metric."""


def main_metric(suite: EvaluationSet) -> MainMetric:
    """Return the metric that a set is told by.

    Raises: DataError: if it is one that is not computed here for such a set, or the set is of no known kind.
    """
    kinds = _kinds_of(suite)
    declared = suite.declared_metric
    if declared is not None:
        name = declared.lower().replace("@", "_at_")
        name = _OTHER_NAMES.get(name, name)
        kind = next((kind for kind in kinds if name in kind.metrics(suite)), None)
        if kind is None:
            computed = dict.fromkeys(name for kind in kinds for name in kind.metrics(suite))
            raise DataError(
                f"{METRIC_FILE} of the set {suite.name} declares {declared[:60]!r}, which is not computed here; "
                f"expected one of {', '.join(computed)}: write one of them there, or take the set out of evaluate.sets"
            )
        return MainMetric(name, "declared", kind)
    _refuse_known_elsewhere(suite.name)
    known = _look_up(suite.name, _KNOWN)
    for kind in kinds:
        if known in kind.metrics(suite):
            return MainMetric(known, "known", kind)
    return MainMetric(kinds[0].metrics(suite)[0], "default", kinds[0])


def _kinds_of(suite: EvaluationSet) -> "list[Kind]":
    from neuclip.evaluation.kinds.known import (
        KINDS,
    )  # loads torch, which the early check does without

    kinds = [kind for kind in KINDS if kind.dataset_type == suite.kind]
    if not kinds:
        names = list(dict.fromkeys(kind.dataset_type for kind in KINDS))
        raise DataError(
            f"{TYPE_FILE} of the set {suite.name} says {suite.kind[:60]!r}; sets of kind "
            f"{', '.join(names[:-1])} and {names[-1]} can be scored"
        )
    return kinds


def require_metrics(set_uris: Iterable[str]) -> None:
    """Refuse early, reading no set, those that are told by a metric which is not computed here.

    Raises: DataError: as `main_metric`.
    """
    for uri in set_uris:
        if not exists(join(uri, METRIC_FILE)):
            _refuse_known_elsewhere(name_of(uri))


def _refuse_known_elsewhere(set_name: str) -> None:
    if metric := _look_up(set_name, _KNOWN_ELSEWHERE):
        raise DataError(
            f"the set {set_name} is told by {metric}, which is not computed here, and another number under its name "
            f"would mislead: take it out of evaluate.sets, or write acc1 into {METRIC_FILE} in its folder to have it "
            "told by that"
        )


def _look_up(set_name: str, table: dict[str, str]) -> str | None:
    words = re.split(r"[^a-z0-9]+", set_name.lower())
    name = "".join(word for word in words if word not in _NO_NAME.split())
    return next((metric for metric, sets in table.items() if name in sets.split()), None)
