"""The kinds of evaluation sets: what a sample is held against, in which metrics, and what chance would give.

A kind that is added is a function and an entry of KINDS, here alone; `dataset_type.txt` of a set names it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuclip.evaluation.zero_shot import (
    LEAST_CLASSES_FOR_TOP_5,
    class_features,
    classification_metrics,
    prompts_of,
)
from neuclip.foundation.errors import DataError
from neuclip.foundation.text import split_lines
from neuclip.loading.evaluation_sets import TYPE_FILE, EvaluationSet
from neuclip.towers.encode import encode_texts
from neuclip.towers.recall import chance_at, recall_both_ways
from neuclip.towers.towers import Towers

RECALL_KS = (1, 5, 10)
_LABEL = re.compile(rb"\s*\+?[0-9]{1,12}\s*")

Why = tuple[str, str]
"""A reason, and in words what was found."""
Metrics = dict[str, float]


@dataclass(frozen=True)
class Scoring:
    """What a kind's function is given.

    Args:
        features: unit-norm features of the images that are scored, [N, D].
        targets: the member beside each of them, [N].
        main: the metric that the set is told by, for what chance would give.
    """

    towers: Towers
    suite: EvaluationSet
    features: Float[Tensor, "N D"]
    targets: Sequence[bytes]
    batch_size: int
    main: str


@dataclass(frozen=True)
class Kind:
    """A kind of sets.

    Args:
        name: as `dataset_type.txt` has it; a set without that file is of the first kind.
        suffix: of the member that an image is held against.
        metrics: those that a set can be told by; the first is the default.
        wrong: why a sample with such a member cannot be scored, None if it can, given its key.
        score: returns chance for the main metric, and all metrics as shares of 0..1.
        texts: all texts that are encoded for it.
    """

    name: str
    suffix: str
    metrics: Callable[[EvaluationSet], list[str]]
    wrong: Callable[[str, bytes, EvaluationSet], Why | None]
    score: Callable[[Scoring], tuple[float, Metrics]]
    texts: Callable[[Scoring], list[str]]


def kind_of(suite: EvaluationSet) -> Kind:
    """Return the kind of a set.

    Raises: DataError: if it is none that can be scored.
    """
    kind = next((kind for kind in KINDS if kind.name == suite.kind), None)
    if kind is None:
        raise DataError(
            f"{TYPE_FILE} of the set {suite.name} says {suite.kind[:60]!r}; sets of kind "
            f"{' and '.join(kind.name for kind in KINDS)} can be scored"
        )
    return kind


def captions_of(target: bytes) -> list[str]:
    """Return the captions in a text member, one a line; blank lines are none."""
    return [line.strip() for line in split_lines(target.decode("utf-8")) if line.strip()]


def _metrics_of_classes(suite: EvaluationSet) -> list[str]:
    has_five = len(suite.classnames) >= LEAST_CLASSES_FOR_TOP_5
    return ["acc1", *(["acc5"] if has_five else []), "mean_per_class_recall"]


def _wrong_label(key: str, target: bytes, suite: EvaluationSet) -> Why | None:
    if _LABEL.fullmatch(target) and int(target) < len(suite.classnames):
        return None
    found = target[:40].decode("ascii", "replace")
    last = len(suite.classnames) - 1
    return (
        "bad_label",
        f"{key}.cls holds {found!r}, expected 0 to {last}, the place of the class in classnames.txt counted from zero",
    )


def _classify(given: Scoring) -> tuple[float, Metrics]:
    """Zero-shot: the class whose prompts lie nearest."""
    labels = torch.tensor([int(target) for target in given.targets])
    suite = given.suite
    classes = class_features(
        given.towers, suite.classnames, suite.templates, batch_size=given.batch_size
    )
    chance = (5 if given.main == "acc5" else 1) / len(classes)
    return chance, classification_metrics(given.features, classes, labels)


def _prompts(given: Scoring) -> list[str]:
    return prompts_of(given.suite.classnames, given.suite.templates)


def _recalls(suite: EvaluationSet) -> list[str]:
    del suite
    ways = ("mean", "image_to_text", "text_to_image")
    return [f"{way}_recall_at_{k}" for way in ways for k in RECALL_KS]


def _wrong_text(key: str, target: bytes, suite: EvaluationSet) -> Why | None:
    del suite
    try:
        return None if captions_of(target) else ("no_txt", f"{key}.txt has no caption")
    except UnicodeDecodeError as error:
        return "bad_text", f"{key}.txt is not UTF-8: {error}"


def _captions(given: Scoring) -> list[str]:
    return [caption for target in given.targets for caption in captions_of(target)]


def _retrieve(given: Scoring) -> tuple[float, Metrics]:
    """Recall both ways; an image owns the captions of its sample."""
    captions = [
        (image, caption)
        for image, target in enumerate(given.targets)
        for caption in captions_of(target)
    ]
    images = torch.arange(len(given.targets))
    texts = torch.tensor([image for image, _ in captions])
    text_features = encode_texts(
        given.towers, [caption for _, caption in captions], batch_size=given.batch_size
    )
    recalls = recall_both_ways(
        given.features, text_features, image_groups=images, text_groups=texts, ks=RECALL_KS
    )
    way, _, k = given.main.rpartition("_recall_at_")
    chances = {
        "image_to_text": chance_at(images, texts, k=int(k)),
        "text_to_image": chance_at(texts, images, k=int(k)),
    }
    return chances.get(way, sum(chances.values()) / 2), recalls


KINDS = (
    Kind("classification", "cls", _metrics_of_classes, _wrong_label, _classify, _prompts),
    Kind("retrieval", "txt", _recalls, _wrong_text, _retrieve, _captions),
)
