"""Whether one model is better than another: the same images, drawn together.

Legend: N images of a set, W resamples.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from neuclip.evaluation.bootstrap import resampled
from neuclip.evaluation.comparison import Difference, Versus
from neuclip.evaluation.interval import middle
from neuclip.evaluation.kinds.kind import Columns, Kind
from neuclip.evaluation.kinds.known import KINDS
from neuclip.evaluation.part import STAGE, read_columns, read_score
from neuclip.evaluation.score import KEY, SetScore
from neuclip.foundation.errors import DataError
from neuclip.stages.manifest import read_manifest
from neuclip.storage.uris import join, parent_of

LEVEL = 0.05
"""Of all tasks of a pair of models together: how often two of the same quality may be called different."""


class _Scored(NamedTuple):
    score: SetScore
    columns: Columns


def compare(uris: Sequence[str]) -> list[Versus]:
    """Compare each committed evaluate stage with each that comes before it.

    Raises: DataError: if two of them have scored different contents or images of a set, or share none.
    """
    models = {uri: _read(uri) for uri in uris}
    return [
        _versus(first, second, models[first], models[second])
        for first, second in combinations(models, 2)
    ]


def p_value(kind: Kind, metric: str, first: Columns, second: Columns, draws: np.ndarray) -> float:
    """Return how often a difference as large would come of two models of the same quality.

    Definition: where a metric is the share of images that are right, McNemar's exact test of the images on which the
    models differ; else twice the share of resampled differences on the other side of zero.

    Source: scipy.stats.binomtest; tests/evaluation/test_compare.py.

    Args:
        draws: second minus first of each resample.
    """
    ours, theirs = (kind.is_right(columns, metric) for columns in (first, second))
    if ours is None or theirs is None:
        return _beyond_zero(draws)
    only_first, only_second = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_second, only_first + only_second).pvalue)


def _beyond_zero(draws: np.ndarray) -> float:
    """Return twice the share of resampled differences on the other side of zero; those that are nan are left out."""
    known = draws[~np.isnan(draws)]
    other_side = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (other_side + 1) / (len(known) + 1)))


def holm(ps: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Tell which of several tests stand when all of them together may err in `level` of cases.

    Source: Holm 1979: the smallest p against level / n, the next against level / (n - 1), until one fails.
    """
    stands = [False] * len(ps)
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[place] > level / (len(ps) - rank):
            break
        stands[place] = True
    return stands


def _read(uri: str) -> dict[str, _Scored]:
    """Read the scores of a stage, and what was noted of each image."""
    manifest = read_manifest(uri)
    if manifest.stage != STAGE:
        raise DataError(
            f"{uri} is of the stage {manifest.stage}, expected a folder of {STAGE}: ROOT/{STAGE}/KEY, as `neuclip run` "
            "prints them"
        )
    parts = join(parent_of(uri), "parts")
    found: dict[str, _Scored] = {}
    for key in manifest.parts:
        part = join(parts, key)
        score = read_score(part)
        found[score.set] = _Scored(score, read_columns(part))
    return found


def _versus(
    first_uri: str, second_uri: str, first: dict[str, _Scored], second: dict[str, _Scored]
) -> Versus:
    names = [name for name in first if name in second]
    if not names:
        raise DataError(
            f"{first_uri} and {second_uri} are scored on no set in common: {', '.join(first) or 'none'} and "
            f"{', '.join(second) or 'none'}"
        )
    draws: list[np.ndarray] = []
    tasks: list[Difference] = []
    for name in names:
        one, other = first[name], second[name]
        _require_comparable(name, one, other)
        task, drawn = _task(one, other)
        tasks.append(task)
        draws.append(drawn)
    stands = holm([task.p for task in tasks])
    return Versus(
        first=first_uri,
        second=second_uri,
        tasks=[
            task.model_copy(update={"is_different": is_different})
            for task, is_different in zip(tasks, stands, strict=True)
        ],
        average=_average(tasks, draws) if len(tasks) > 1 else None,
        not_compared=sorted(first.keys() ^ second.keys()),
    )


def _task(one: _Scored, other: _Scored) -> tuple[Difference, np.ndarray]:
    """Return the difference on a set, and that of each resample."""
    score = one.score
    kind = next(kind for kind in KINDS if kind.name == score.kind)
    metric, version = score.main_metric, score.suite_version
    by_model = [
        resampled(kind, scored.columns, suite_version=version)[metric] for scored in (one, other)
    ]
    draws = by_model[1] - by_model[0]
    difference = Difference(
        task=score.set,
        metric=metric,
        first=score.main_value,
        second=other.score.main_value,
        difference=other.score.main_value - score.main_value,
        interval=middle(draws),
        p=p_value(kind, metric, one.columns, other.columns, draws),
        is_different=False,
    )
    return difference, draws


def _average(tasks: Sequence[Difference], draws: Sequence[np.ndarray]) -> Difference:
    """Return the difference of the mean over sets, each of which is drawn by itself."""
    together = np.mean(draws, axis=0)
    first, second = (
        float(np.mean([getattr(task, of) for task in tasks])) for of in ("first", "second")
    )
    return Difference(
        task="average",
        metric="main metrics",
        first=first,
        second=second,
        difference=second - first,
        interval=middle(together),
        p=(p := _beyond_zero(together)),
        is_different=p <= LEVEL,
    )


def _require_comparable(name: str, one: _Scored, other: _Scored) -> None:
    if one.score.suite_version != other.score.suite_version:
        raise DataError(
            f"the set {name} is of suite version {one.score.suite_version} for the first model and "
            f"{other.score.suite_version} for the second: scores of other versions are not comparable; evaluate both "
            "on the same files"
        )
    if one.score.main_metric != other.score.main_metric:
        raise DataError(
            f"the set {name} is told by {one.score.main_metric} for the first model and {other.score.main_metric} for "
            "the second; evaluate both anew"
        )
    if not np.array_equal(one.columns[KEY], other.columns[KEY]):
        raise DataError(
            f"the models were scored on different images of the set {name}: {len(one.columns[KEY])} and "
            f"{len(other.columns[KEY])}; evaluate both anew with `--only evaluate --force`"
        )
