"""Zero-shot classification: the class whose name lies nearest to the image.

Legend: N images, C classes, D embedding width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from neuclip.foundation.errors import NumericsError
from neuclip.towers.encode import encode_texts
from neuclip.towers.towers import Towers

LEAST_CLASSES_FOR_TOP_5 = 5
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


def classification_metrics(
    image_features: Float[Tensor, "N D"],
    classes: Float[Tensor, "C D"],
    labels: Int64[Tensor, " N"],
) -> dict[str, float]:
    """Return acc1, acc5 (for five classes and more) and mean_per_class_recall, shares of 0..1.

    Definition: acc-k is the share of images whose class is among the k that score best, mean_per_class_recall the mean
    over the classes that have images of the share whose class scores best. Classes that score the same, as those of one
    name do, are told apart by torch.topk and torch.argmax: an image has k answers, no more and no fewer.
    Source: open_clip_train.zero_shot.accuracy, CLIP_benchmark; see tests/evaluation/test_ties.py.
    Raises: NumericsError: for features that are not finite.
    """
    if not (torch.isfinite(image_features).all() and torch.isfinite(classes).all()):
        raise NumericsError("features are not finite; the weights of the model are broken")
    has_five = len(classes) >= LEAST_CLASSES_FOR_TOP_5
    best: list[Tensor] = []
    first: list[Tensor] = []
    for start in range(0, len(image_features), _CHUNK):
        scores = _SCALE * image_features[start : start + _CHUNK] @ classes.T
        best.append(scores.topk(5 if has_five else 1, dim=1).indices)
        first.append(scores.argmax(dim=1))
    is_right = torch.cat(best) == labels[:, None]
    is_first = (torch.cat(first) == labels).double()
    metrics = {"acc1": float(is_right[:, 0].double().mean())}
    if has_five:
        metrics["acc5"] = float(is_right.any(dim=1).double().mean())
    per_class = [is_first[labels == label].mean() for label in labels.unique()]
    metrics["mean_per_class_recall"] = float(torch.stack(per_class).mean())
    return metrics
