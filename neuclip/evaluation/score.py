"""The scores of one model on one evaluation set."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from neuclip.evaluation.zero_shot import class_features, classification_metrics
from neuclip.foundation.errors import DataError
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample
from neuclip.stages.ledger import Ledger, make_ledger
from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.model import Towers
from neuclip.towers.recall import chance_at_1, recall_both_ways

_KS = (1, 5, 10)
_SCORED_PER_CLASS = frozenset(
    ["vtab-caltech101", "fgvc_aircraft", "vtab-flowers", "vtab-pets"]
)  # as DataComp does


class SetScore(BaseModel):
    """A row of scores.json; metrics are shares of 0..1."""

    model_config = ConfigDict(frozen=True)

    set: str
    kind: str
    suite_version: str
    model_sha256: str
    samples: int
    main_metric: str
    main_value: float
    chance: float
    metrics: dict[str, float]


@dataclass
class _Reading:
    """What was read along with the images: the target of each image handed on, and the rest by reason."""

    targets: list[bytes] = field(default_factory=list[bytes])
    dropped: Counter[str] = field(default_factory=Counter[str])

    def images(self, samples: Iterator[TarSample], suffix: str) -> Iterator[bytes]:
        """Hand on the images whose sample has both parts."""
        for sample in samples:
            image, target = sample.image(), sample.parts.get(suffix)
            if image is None:
                self.dropped["no_image"] += 1
            elif target is None or not target.strip():
                self.dropped[f"no_{suffix}"] += 1
            else:
                self.targets.append(target)
                yield image


def score_set(
    towers: Towers, suite: EvaluationSet, *, batch_size: int, model_sha256: str
) -> tuple[SetScore, Ledger]:
    """Score a model on a set.

    Returns: the row, and the ledger of the set's samples.
    Raises: DataError: if nothing can be scored, or a label is not one of the classes.
    """
    reading = _Reading()
    suffix = "cls" if suite.kind == "classification" else "txt"
    features, decoded = encode_images(
        towers, reading.images(suite.samples(), suffix), batch_size=batch_size
    )
    targets = list(compress(reading.targets, decoded))
    dropped = {**reading.dropped, "undecodable_image": len(decoded) - len(targets)}
    ledger = make_ledger(len(targets) + sum(dropped.values()), len(targets), dropped)
    if not targets:
        raise DataError(f"no sample of the set {suite.name} can be scored: {ledger.describe()}")
    score = _classify if suite.kind == "classification" else _retrieve
    main, chance, metrics = score(towers, suite, features, targets, batch_size)
    row = SetScore(
        set=suite.name,
        kind=suite.kind,
        suite_version=suite.suite_version,
        model_sha256=model_sha256,
        samples=len(targets),
        main_metric=main,
        main_value=metrics[main],
        chance=chance,
        metrics=metrics,
    )
    return row, ledger


def _classify(
    towers: Towers, suite: EvaluationSet, features: Tensor, targets: list[bytes], batch_size: int
) -> tuple[str, float, dict[str, float]]:
    """Return main metric, chance and metrics of a classification set."""
    labels = torch.tensor([_label(target, suite) for target in targets])
    classes = class_features(towers, suite.classnames, suite.templates, batch_size=batch_size)
    main = "mean_per_class_recall" if suite.name in _SCORED_PER_CLASS else "acc1"
    return main, 1 / len(classes), classification_metrics(features, classes, labels)


def _retrieve(
    towers: Towers, suite: EvaluationSet, features: Tensor, targets: list[bytes], batch_size: int
) -> tuple[str, float, dict[str, float]]:
    """Return main metric, chance and metrics of a retrieval set; an image owns the captions of its sample."""
    del suite
    captions = [
        (image, line.strip())
        for image, target in enumerate(targets)
        for line in target.decode("utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    image_groups = torch.arange(len(targets))
    text_groups = torch.tensor([image for image, _ in captions])
    texts = encode_texts(towers, [caption for _, caption in captions], batch_size=batch_size)
    recalls = recall_both_ways(
        features, texts, image_groups=image_groups, text_groups=text_groups, ks=_KS
    )
    chance = chance_at_1(image_groups, text_groups) + chance_at_1(text_groups, image_groups)
    return "mean_recall_at_1", chance / 2, recalls


def _label(target: bytes, suite: EvaluationSet) -> int:
    """Read a class number."""
    text = target.decode("ascii", errors="replace").strip()
    if not text.isdecimal() or int(text) >= len(suite.classnames):
        raise DataError(
            f"the set {suite.name} has a label {text!r}; expected 0 to {len(suite.classnames) - 1}, "
            "the place of the class in classnames.txt counted from zero"
        )
    return int(text)
