"""The scores of one model on one evaluation set."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from neuclip.evaluation.main_metric import RECALL_KS, MainMetric, main_metric
from neuclip.evaluation.targets import TARGET_SUFFIX, captions_of, image_of, judge
from neuclip.evaluation.zero_shot import class_features, classification_metrics
from neuclip.foundation.errors import DataError
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample
from neuclip.stages.ledger import Ledger, make_ledger
from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.model import Towers
from neuclip.towers.recall import chance_at, recall_both_ways

MOST_NOT_SCORED = 0.5
"""Share of a set's samples; above, a score would be that of another set."""

Metrics = dict[str, float]


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
    metrics: Metrics


@dataclass
class _Reading:
    """What was read along with the images: the target of each image handed on, and the rest by reason."""

    suite: EvaluationSet
    targets: list[bytes] = field(default_factory=list[bytes])
    dropped: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    """Reason -> the first sample of it, in words."""

    def images(self, samples: Iterator[TarSample]) -> Iterator[bytes]:
        """Hand on the images whose sample can be scored."""
        for sample in samples:
            is_scored, reasons = judge(sample, self.suite)
            for reason, words in reasons:
                self.dropped[reason] += 1
                self.examples.setdefault(reason, words)
            image = image_of(sample)
            if is_scored and image is not None:
                self.targets.append(sample.parts[TARGET_SUFFIX[self.suite.kind]])
                yield image


def score_set(
    towers: Towers, suite: EvaluationSet, *, batch_size: int, model_sha256: str
) -> tuple[SetScore, Ledger]:
    """Score a model on a set.

    Returns: the row, and the ledger of the set's samples.
    Raises: DataError: if its main metric is not computed here, or too many of its samples cannot be scored.
    """
    main = main_metric(suite)
    reading = _Reading(suite)
    features, decoded = encode_images(
        towers, reading.images(suite.samples()), batch_size=batch_size
    )
    targets = list(compress(reading.targets, decoded))
    dropped = {**reading.dropped, "undecodable_image": len(decoded) - len(targets)}
    ledger = make_ledger(len(targets) + sum(dropped.values()), len(targets), dropped)
    _check_scored(ledger, reading)
    score = _classify if suite.kind == "classification" else _retrieve
    chance, metrics = score(towers, suite, features, targets, batch_size, main)
    row = SetScore(
        set=suite.name,
        kind=suite.kind,
        suite_version=suite.suite_version,
        model_sha256=model_sha256,
        samples=len(targets),
        not_scored=ledger.dropped,
        main_metric=main.name,
        main_metric_source=main.source,
        main_value=metrics[main.name],
        chance=chance,
        metrics=metrics,
    )
    return row, ledger


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


def _classify(
    towers: Towers,
    suite: EvaluationSet,
    features: Tensor,
    targets: list[bytes],
    batch_size: int,
    main: MainMetric,
) -> tuple[float, Metrics]:
    """Return chance and metrics of a classification set."""
    labels = torch.tensor([int(target) for target in targets])
    classes = class_features(towers, suite.classnames, suite.templates, batch_size=batch_size)
    chance = (5 if main.name == "acc5" else 1) / len(classes)
    return chance, classification_metrics(features, classes, labels)


def _retrieve(
    towers: Towers,
    suite: EvaluationSet,
    features: Tensor,
    targets: list[bytes],
    batch_size: int,
    main: MainMetric,
) -> tuple[float, Metrics]:
    """Return chance and metrics of a retrieval set; an image owns the captions of its sample."""
    del suite
    captions = [
        (image, caption) for image, target in enumerate(targets) for caption in captions_of(target)
    ]
    images = torch.arange(len(targets))
    texts = torch.tensor([image for image, _ in captions])
    text_features = encode_texts(
        towers, [caption for _, caption in captions], batch_size=batch_size
    )
    recalls = recall_both_ways(
        features, text_features, image_groups=images, text_groups=texts, ks=RECALL_KS
    )
    way, _, k = main.name.rpartition("_recall_at_")
    chances = {
        "image_to_text": chance_at(images, texts, k=int(k)),
        "text_to_image": chance_at(texts, images, k=int(k)),
    }
    return chances.get(way, sum(chances.values()) / 2), recalls
