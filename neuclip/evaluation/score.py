"""The scores of models on an evaluation set."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from neuclip.evaluation.bootstrap import intervals_of, measure
from neuclip.evaluation.interval import Interval
from neuclip.evaluation.kinds.kind import Columns, Kind, Scoring
from neuclip.evaluation.main_metric import MainMetric, main_metric
from neuclip.evaluation.targets import image_of, judge
from neuclip.foundation.errors import DataError
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample
from neuclip.stages.ledger import Ledger, make_ledger
from neuclip.towers.cut_texts import count_cut
from neuclip.towers.encode import encode_images_by
from neuclip.towers.towers import Towers

KEY = "key"
"""Of a sample, among what is noted of its image."""
MOST_NOT_SCORED = 0.5
"""Share of a set's samples; above, a score would be that of another set."""


class SetScore(BaseModel):
    """A row of scores.json; metrics are shares of 0..1."""

    model_config = ConfigDict(frozen=True)

    set: str
    kind: str
    suite_version: str
    model_sha256: str
    samples: int
    not_scored: dict[str, int]
    """Reason -> samples of the set that are not among `samples`."""
    main_metric: str
    main_metric_source: Literal["declared", "known", "default"]
    main_value: float
    chance: float
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    """Where 95 % of each metric lies over draws of other images; see `bootstrap.intervals_of`."""
    cut_texts: int = 0
    """Texts of the set that are longer than the model reads, and were encoded by their beginning."""

    @property
    def interval(self) -> Interval:
        """Where 95 % of the main metric lies."""
        return self.intervals[self.main_metric]


@dataclass
class _Reading:
    """What was read along with the images: the sample of each image handed on, and the rest by reason."""

    suite: EvaluationSet
    kind: Kind
    samples: list[TarSample] = field(default_factory=list[TarSample])
    """Without their pictures."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    """Reason -> the first sample of it, in words."""

    def images(self, samples: Iterator[TarSample]) -> Iterator[bytes]:
        """Hand on the images whose sample can be scored."""
        for sample in samples:
            is_scored, reasons = judge(sample, self.suite, self.kind)
            for reason, words in reasons:
                self.dropped[reason] += 1
                self.examples.setdefault(reason, words)
            image = image_of(sample)
            if is_scored and image is not None:
                parts = {suffix: sample.parts[suffix] for suffix in self.kind.suffixes}
                self.samples.append(TarSample(sample.key, parts))
                yield image


class Scored(NamedTuple):
    """What a model made of a set.

    Args:
        row: of scores.json.
        columns: what was noted of each image, beside its key.
        ledger: of the set's samples.
    """

    row: SetScore
    columns: Columns
    ledger: Ledger


def score_set(
    towers: Towers, suite: EvaluationSet, *, batch_size: int, model_sha256: str
) -> Scored:
    """Score a model on a set; see `score_models`."""
    [scored] = score_models({model_sha256: towers}, suite, batch_size=batch_size).values()
    return scored


def score_models(
    models: Mapping[str, Towers], suite: EvaluationSet, *, batch_size: int
) -> dict[str, Scored]:
    """Score models on a set, whose images are read and decoded once.

    Args:
        models: by the hash of their weights.
    Raises: DataError: if its main metric is not computed here, or too many of its samples cannot be scored.
    """
    main = main_metric(suite)
    reading = _Reading(suite, main.kind)
    features, decoded = encode_images_by(
        list(models.values()), reading.images(suite.samples()), batch_size=batch_size
    )
    samples = list(compress(reading.samples, decoded))
    dropped = {**reading.dropped, "undecodable_image": len(decoded) - len(samples)}
    ledger = make_ledger(len(samples) + sum(dropped.values()), len(samples), dropped)
    _check_scored(ledger, reading)
    return {
        model_sha256: _scored(
            Scoring(towers, suite, of_model, samples, batch_size), main, model_sha256, ledger
        )
        for (model_sha256, towers), of_model in zip(models.items(), features, strict=True)
    }


def _scored(given: Scoring, main: MainMetric, model_sha256: str, ledger: Ledger) -> Scored:
    suite, kind = given.suite, main.kind
    columns = kind.columns(given)
    metrics = measure(kind, columns)
    row = SetScore(
        set=suite.name,
        kind=kind.name,
        suite_version=suite.suite_version,
        model_sha256=model_sha256,
        samples=len(given.samples),
        not_scored=ledger.dropped,
        main_metric=main.name,
        main_metric_source=main.source,
        main_value=metrics[main.name],
        chance=kind.chance(given, main.name),
        metrics=metrics,
        intervals=intervals_of(kind, columns, suite_version=suite.suite_version),
        cut_texts=count_cut(given.towers, list(dict.fromkeys(kind.texts(given)))),
    )
    return Scored(row, {KEY: np.array([sample.key for sample in given.samples]), **columns}, ledger)


def _check_scored(ledger: Ledger, reading: _Reading) -> None:
    """Raise unless most of a set can be scored."""
    name, lost = reading.suite.name, ledger.entered - ledger.out
    if ledger.out and lost <= MOST_NOT_SCORED * ledger.entered:
        return
    if not ledger.entered:
        raise DataError(
            f"the set {name} has no sample in its {len(reading.suite.shard_uris)} shards, so nothing can be scored; "
            "its members are KEY.jpg, KEY.png or KEY.webp beside KEY.cls or KEY.txt"
        )
    examples = "".join(f"; {reason}: {words}" for reason, words in reading.examples.items())
    raise DataError(
        f"{lost} of the {ledger.entered} samples of the set {name} cannot be scored, at most "
        f"{MOST_NOT_SCORED:.0%} may be: {ledger.describe()}{examples}. Correct the set, or take it out of evaluate.sets"
    )
