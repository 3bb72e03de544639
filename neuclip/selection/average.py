"""Averages of checkpoints: chosen on one half of the held-out pairs, believed only if the other half agrees."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from neuclip.loading.selection_split import Pair
from neuclip.selection.config import SelectConfig
from neuclip.selection.score import CheckpointScore, value_of
from neuclip.selection.soup import cook

Score = Callable[[Path, Sequence[Pair], CheckpointScore], CheckpointScore]
"""Scores a folder on pairs; what else a row says is that of a checkpoint."""


class Candidate(NamedTuple):
    """A model that may be chosen.

    Args:
        row: its scores on all held-out pairs.
        of: the checkpoints it is the mean of.
    """

    row: CheckpointScore
    folder: Path
    of: list[CheckpointScore]


class Verdict(NamedTuple):
    """The best average, and whether it is better than the best checkpoint on the half that did not choose."""

    average: Candidate
    on_other_half: float
    best_on_other_half: float

    @property
    def is_better(self) -> bool:
        """Tell whether it is to be published."""
        return self.on_other_half > self.best_on_other_half


def best_average(
    config: SelectConfig,
    singles: Sequence[Candidate],
    best: Candidate,
    pairs: Sequence[Pair],
    *,
    score: Score,
    scratch: Path,
) -> Verdict:
    """Make the averages that the recipe asks for, and hold the best of them against the best checkpoint.

    `uniform_last` is the mean of the last `average_last` checkpoints. `greedy` begins with the checkpoint that is best
    on the choosing half, and takes each other into the mean, the better ones first, if that is no worse there.

    Source: arXiv 2203.05482, recipe 1; tests/selection/test_average.py.

    Args:
        singles: all checkpoints, oldest first.
        best: the one that would be chosen among them.
    """
    choosing, other = pairs[::2], pairs[1::2]
    images = [pair.image for pair in choosing]

    def on(half: Sequence[Pair], folder: Path, like: CheckpointScore) -> float:
        return value_of(score(folder, half, like), config.metric)

    def mean_of(parts: Sequence[Candidate]) -> tuple[Path, float]:
        steps = sorted(part.row.step for part in parts)
        out = scratch / "-".join(map(str, steps))
        if not out.exists():
            folders = [part.folder for part in parts]
            cook(folders, out, images=images, batch_size=config.batch_size)
        return out, on(choosing, out, _last(parts).row)

    found: list[tuple[float, Path, list[Candidate]]] = []
    if "uniform_last" in config.average:
        parts = list(singles[-config.average_last :])
        out, value = mean_of(parts)
        found.append((value, out, parts))
    if "greedy" in config.average:
        alone = {one.folder: on(choosing, one.folder, one.row) for one in singles}
        first, *others = sorted(
            singles, key=lambda one: (alone[one.folder], one.row.step), reverse=True
        )
        parts, (out, value) = [first], mean_of([first])
        for one in others:
            tried, tried_value = mean_of([*parts, one])
            if tried_value >= value:
                parts, out, value = [*parts, one], tried, tried_value
        found.append((value, out, parts))
    _, out, parts = max(found, key=lambda one: (one[0], len(one[2])))
    of = sorted((part.row for part in parts), key=lambda part: part.step)
    row = score(out, pairs, _last(parts).row)
    row = row.model_copy(update={"mean_of": [part.step for part in of]})
    return Verdict(Candidate(row, out, of), on(other, out, row), on(other, best.folder, best.row))


def _last(parts: Sequence[Candidate]) -> Candidate:
    return max(parts, key=lambda part: part.row.step)
