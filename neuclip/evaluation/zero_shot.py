"""Zero-shot classification: the class whose name lies nearest to the image.

Legend: N images, C classes, D embedding width.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from neuclip.foundation.errors import NumericsError
from neuclip.towers.encode import encode_texts
from neuclip.towers.towers import Towers

_CHUNK = 4096
_SCALE = 100.0
"""Of the scores in open_clip's trainer and CLIP_benchmark; with it, ties of rounded scores fall as they do there."""


def prompts_of(classnames: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return the prompts of all classes, those of a class together."""
    return [template.replace("{c}", name) for name in classnames for template in templates]


def class_features(
    towers: Towers, classnames: Sequence[str], templates: Sequence[str], *, batch_size: int
) -> Float[Tensor, "C D"]:
    """Return each class's mean over all prompts of their unit-norm features, made unit-norm again.

    Classes of one name have the same features, to the bit.

    Source: CLIP 2021, section 3.1.4; equals open_clip's build_zero_shot_classifier, see
        tests/evaluation/test_zero_shot.py.
    """
    prompts = prompts_of(classnames, templates)
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    features = encode_texts(towers, list(places), batch_size=batch_size)
    prompt_features = features[[places[prompt] for prompt in prompts]]
    return normalize(
        prompt_features.reshape(len(classnames), len(templates), -1).mean(dim=1), dim=1
    )


def nearest_classes(
    image_features: Float[Tensor, "N D"], classes: Float[Tensor, "C D"], *, count: int
) -> tuple[Int64[Tensor, "N k"], Int64[Tensor, " N"]]:
    """Return the `count` classes that score best, and the best by argmax, which falls otherwise where scores are equal.

    Source: topk as in open_clip_train.zero_shot.accuracy, argmax as in CLIP_benchmark's mean over classes;
        tests/evaluation/test_ties.py.
    Raises: NumericsError: for features that are not finite.
    """
    best: list[Tensor] = []
    first: list[Tensor] = []
    for scores in scores_of(image_features, classes):
        best.append(scores.topk(count, dim=1).indices)
        first.append(scores.argmax(dim=1))
    return torch.cat(best), torch.cat(first)


def scores_of(
    image_features: Float[Tensor, "N D"], classes: Float[Tensor, "C D"]
) -> Iterator[Float[Tensor, "n C"]]:
    """Yield the scores of images for all classes, in parts.

    Raises: NumericsError: for features that are not finite.
    """
    if not (torch.isfinite(image_features).all() and torch.isfinite(classes).all()):
        raise NumericsError("features are not finite; the weights of the model are broken")
    for start in range(0, len(image_features), _CHUNK):
        yield _SCALE * image_features[start : start + _CHUNK] @ classes.T
