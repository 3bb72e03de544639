"""Features of many images or texts for scoring: no gradients, batch by batch, kept on the CPU."""

import json
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


def encode_images(
    towers: Towers, contents: Iterable[bytes], *, batch_size: int
) -> tuple[Float[Tensor, "M D"], list[bool]]:
    """Decode and encode image files, as open_clip would for evaluation.

    Args:
        contents: files in order; read as they are needed.
        batch_size: images decoded (by threads) and encoded at once.
    Returns: unit-norm features of the M files that decode, and for every file whether it did.
    """
    [features], decoded = encode_images_by([towers], contents, batch_size=batch_size)
    return features, decoded


@torch.no_grad()  # inference mode would spoil weights that FSDP2 puts together here for a later step
def encode_images_by(
    models: Sequence[Towers], contents: Iterable[bytes], *, batch_size: int
) -> tuple[list[Float[Tensor, "M D"]], list[bool]]:
    """Encode image files by several models, each file decoded once; the next batch decodes while one is encoded.

    Args: as `encode_images`.
    Returns: unit-norm features of the M files that decode, by model, and for every file whether it did.
    """
    sizes = [json.dumps(towers.preprocess, sort_keys=True) for towers in models]
    transforms = {
        size: evaluation_transform(towers.preprocess)
        for size, towers in zip(sizes, models, strict=True)
    }

    def to_pixels(content: bytes) -> dict[str, Tensor] | None:
        try:
            image = decode_rgb(content)
        except DataError:
            return None
        return {size: transform(image) for size, transform in transforms.items()}

    features: list[list[Tensor]] = [[torch.empty(0, towers.embed_dim)] for towers in models]
    decoded: list[bool] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
        for batch in _ahead(
            threads.map(to_pixels, part) for part in _batches(contents, batch_size)
        ):
            tried = list(batch)
            found = [pixels for pixels in tried if pixels is not None]
            decoded += [pixels is not None for pixels in tried]
            for size, towers, of_model in zip(sizes, models, features, strict=True):
                if found:
                    on_device = torch.stack([pixels[size] for pixels in found]).to(towers.device)
                    of_model.append(towers.image_features(on_device).float().cpu())
    return [torch.cat(parts) for parts in features], decoded


def _ahead(batches: Iterable[_Item]) -> Iterator[_Item]:
    """Yield each batch when the next has been begun."""
    before: list[_Item] = []
    for batch in batches:
        before.append(batch)
        if len(before) > 1:
            yield before.pop(0)
    yield from before


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
