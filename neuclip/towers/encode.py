"""Features of many images or texts for scoring: no gradients, batch by batch, kept on the CPU."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from neuclip.acquired.images import decode_rgb
from neuclip.foundation.errors import DataError
from neuclip.towers.towers import Towers
from neuclip.towers.transforms import evaluation_transform

_MOST_THREADS = 16
_Item = TypeVar("_Item")


def scoring_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()  # inference mode would spoil weights that FSDP2 puts together here for a later step
def encode_images(
    towers: Towers, contents: Iterable[bytes], *, batch_size: int
) -> tuple[Float[Tensor, "M D"], list[bool]]:
    """Decode and encode image files, as open_clip would for evaluation.

    Args:
        contents: files in order; read as they are needed.
        batch_size: images decoded (by threads) and encoded at once.
    Returns: unit-norm features of the M files that decode, and for every file whether it did.
    """
    transform = evaluation_transform(towers.preprocess)

    def to_pixels(content: bytes) -> Tensor | None:
        try:
            return transform(decode_rgb(content))
        except DataError:
            return None

    features: list[Tensor] = [torch.empty(0, towers.embed_dim)]
    decoded: list[bool] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
        for batch in _batches(contents, batch_size):
            tried = list(threads.map(to_pixels, batch))
            pixels = [image for image in tried if image is not None]
            decoded += [image is not None for image in tried]
            if pixels:
                on_device = torch.stack(pixels).to(towers.device)
                features.append(towers.image_features(on_device).float().cpu())
    return torch.cat(features), decoded


@torch.no_grad()  # inference mode would spoil weights that FSDP2 puts together here for a later step
def encode_texts(towers: Towers, texts: Sequence[str], *, batch_size: int) -> Float[Tensor, "N D"]:
    """Tokenize and encode texts to unit-norm features."""
    features: list[Tensor] = [torch.empty(0, towers.embed_dim)]
    for batch in _batches(texts, batch_size):
        tokens = towers.tokenize(batch).to(towers.device)
        features.append(towers.text_features(tokens).float().cpu())
    return torch.cat(features)


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Cut items into lists of a size; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
