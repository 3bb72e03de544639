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
from neuclip.towers.model import Towers

_CHUNK = 4096
_LEAST_CLASSES_FOR_TOP_5 = 6


def class_features(
    towers: Towers, classnames: Sequence[str], templates: Sequence[str], *, batch_size: int
) -> Float[Tensor, "C D"]:
    """Return each class's mean over all prompts of their unit-norm features, made unit-norm again.

    Source: CLIP 2021, section 3.1.4; equals open_clip's build_zero_shot_classifier, see
        tests/evaluation/test_zero_shot.py.
    """
    prompts = [template.replace("{c}", name) for name in classnames for template in templates]
    prompt_features = encode_texts(towers, prompts, batch_size=batch_size).reshape(
        len(classnames), len(templates), -1
    )
    return normalize(prompt_features.mean(dim=1), dim=1)


def classification_metrics(
    image_features: Float[Tensor, "N D"],
    classes: Float[Tensor, "C D"],
    labels: Int64[Tensor, " N"],
) -> dict[str, float]:
    """Return acc1, acc5 (for more than five classes) and mean_per_class_recall, shares of 0..1.

    Definition: the rank of an image is the number of other classes that score at least as high as its own,
    so that a tie counts against the model; acc-k is the share of images with rank < k; mean_per_class_recall
    is the mean of acc1 over the classes that have images.
    Raises: NumericsError: for features that are not finite.
    """
    if not (torch.isfinite(image_features).all() and torch.isfinite(classes).all()):
        raise NumericsError("features are not finite; the weights of the model are broken")
    chunks: list[Tensor] = []
    for start in range(0, len(image_features), _CHUNK):
        rows = slice(start, start + _CHUNK)
        scores = image_features[rows] @ classes.T
        own = scores.gather(1, labels[rows, None])
        chunks.append((scores >= own).sum(dim=1) - 1)
    ranks = torch.cat(chunks)
    hits = (ranks < 1).double()
    per_class = [hits[labels == label].mean() for label in labels.unique()]
    metrics = {"acc1": float(hits.mean())}
    if len(classes) >= _LEAST_CLASSES_FOR_TOP_5:
        metrics["acc5"] = float((ranks < 5).double().mean())
    metrics["mean_per_class_recall"] = float(torch.stack(per_class).mean())
    return metrics
