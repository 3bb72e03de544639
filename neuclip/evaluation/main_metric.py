"""The one metric that a set is told by: what the set declares, what is known of it, or acc1.

A number means what others mean by it only in the metric that they report: DataComp tells iWildCam by a macro F1 and
Dollar Street by its worst group, and acc1 under their names would be another number.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from neuclip.foundation.errors import DataError
from neuclip.loading.evaluation_sets import METRIC_FILE, EvaluationSet
from neuclip.storage.files import exists
from neuclip.storage.uris import join, name_of

_KNOWN = {
    "acc1": "camelyon17 cars cifar10 cifar100 clevrclosestobjectdistance clevrcountall country211 dtd eurosat food101 "
    "gtsrb imagenet1k imageneta imageneto imagenetr imagenetsketch imagenetv2 kitticlosestvehicledistance mnist "
    "objectnet pcam renderedsst2 resisc45 stl10 sun397 svhn voc2007",
    "mean_per_class_recall": "caltech101 fgvcaircraft flowers flowers102 iiitpet iiitpets pet pets",
    "mean_recall_at_1": "flickr30k mscoco20145kimagetext mscococaptions",
}
_KNOWN_ELSEWHERE = {
    "F1-macro_all": "iwildcam iwildcam2020",
    "acc_worst_region": "fmow",
    "acc_top5_wg": "dollarstreet",
    "acc_wg": "geode",
    "jaccard_score_10-12": "winogavil",
    "accuracies by group": "fairface utkface",
}
"""Main metric -> the sets that are told by it, without suite, split and version; the second are not computed here.
Source: tasklist.yml of DataComp."""

_NO_NAME = (
    "wds vtab wilds fairness misc retrieval oxford test val valid validation train id ood 0 1 v1 v2"
)
"""What stands beside the name of a set: suite, split, version."""


class MainMetric(NamedTuple):
    """A metric, and why it is this one."""

    name: str
    source: Literal["declared", "known", "default"]
    """declared: by main_metric.txt of the set; known: as DataComp tells the set; default: neither."""


def main_metric(suite: EvaluationSet) -> MainMetric:
    """Return the metric that a set is told by.

    Raises: DataError: if it is one that is not computed here for such a set, or the set is of no known kind.
    """
    from neuclip.evaluation.kinds import kind_of  # loads torch, which the early check does without

    computed = kind_of(suite).metrics(suite)
    declared = suite.declared_metric
    if declared is not None:
        name = declared.lower().replace("@", "_at_")
        if name not in computed:
            raise DataError(
                f"{METRIC_FILE} of the set {suite.name} declares {declared[:60]!r}, which is not computed here; "
                f"expected one of {', '.join(computed)}: write one of them there, or take the set out of evaluate.sets"
            )
        return MainMetric(name, "declared")
    _refuse_known_elsewhere(suite.name)
    known = _look_up(suite.name, _KNOWN)
    if known in computed:
        return MainMetric(known, "known")
    return MainMetric(computed[0], "default")


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
