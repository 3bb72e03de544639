"""Read, decode and transform the samples of a batch."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.foundation.randomness import generator
from neuclip.index.reader import SampleTable
from neuclip.loading.images import decode_rgb

log = logging.getLogger(__name__)

_IMAGE_VIEW, _CAPTION_VIEW = 0, 1

ImageTransform = Callable[[Image.Image, Any], Float[Tensor, "3 H W"]]
Tokenize = Callable[[list[str]], Int64[Tensor, "B context"]]


@dataclass(frozen=True)
class Batch:
    """A batch of one rank. B is the local batch."""

    images: Float[Tensor, "B 3 H W"]
    tokens: Int64[Tensor, "B context"]
    sample_ids: Int64[Tensor, " B"]
    corrupt: list[int]
    """Sample ids whose image does not decode; their place is taken by a neighbour in the batch."""

    def to(self, device: torch.device) -> "Batch":
        """Copy the tensors to a device."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            tokens=self.tokens.to(device, non_blocking=True),
            sample_ids=self.sample_ids.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "Batch":
        """Move the tensors to page-locked memory; torch's loader calls this."""
        return replace(
            self,
            images=self.images.pin_memory(),
            tokens=self.tokens.pin_memory(),
            sample_ids=self.sample_ids.pin_memory(),
        )


class ShardSamples(Dataset[Batch]):
    """Samples by (epoch, sample_id), read from local shards by offset.

    Everything drawn at random is keyed by (seed, epoch, sample_id, view).

    Args:
        folder: local folder with the shards.
        table: where the samples lie.
        transform: makes pixels of an RGB image and a random generator.
        tokenize: makes token ids of texts.
        caption_sources: source -> weight it is drawn with among the sources a sample has.
        seed: of all drawing.
    """

    def __init__(
        self,
        folder: Path,
        table: SampleTable,
        *,
        transform: ImageTransform,
        tokenize: Tokenize,
        caption_sources: Mapping[str, float],
        seed: int,
    ) -> None:
        self._folder, self._table, self._seed = folder, table, seed
        self._transform, self._tokenize = transform, tokenize
        self._caption_sources = dict(caption_sources)
        self._files: dict[int, int] = {}

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> Batch:
        """Make the batch of a list of (epoch, sample_id); torch's loader calls this with a whole batch."""
        images: list[Tensor | None] = []
        captions: list[str] = []
        corrupt: list[int] = []
        for epoch, sample_id in pairs:
            image_bytes, record = self._read(sample_id)
            captions.append(self._choose_caption(record, epoch=epoch, sample_id=sample_id))
            try:
                image = decode_rgb(image_bytes)
            except DataError as error:
                log.warning("sample %d (%s) is corrupt: %s", sample_id, record["uid"], error)
                corrupt.append(sample_id)
                images.append(None)
                continue
            draw = generator(self._seed, epoch=epoch, sample_id=sample_id, view=_IMAGE_VIEW)
            images.append(self._transform(image, draw))
        ids = [sample_id for _, sample_id in pairs]
        pixels, texts, ids = _fill_gaps(images, captions, ids)
        return Batch(torch.stack(pixels), self._tokenize(texts), torch.tensor(ids), corrupt)

    def _read(self, sample_id: int) -> tuple[bytes, dict[str, Any]]:
        """Return image bytes and metadata record of a sample."""
        table = self._table
        shard = int(table.shard[sample_id])
        image = self._pread(
            shard, int(table.image_offset[sample_id]), int(table.image_size[sample_id])
        )
        text = self._pread(
            shard, int(table.json_offset[sample_id]), int(table.json_size[sample_id])
        )
        record: dict[str, Any] = json.loads(text)
        if record["sample_id"] != sample_id:
            raise IntegrityError(
                f"{self._folder / table.shards[shard]} holds sample {record['sample_id']} where the index has "
                f"{sample_id}; the shard was changed after the index was made: run `--from shard`"
            )
        return image, record

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        path = self._folder / self._table.shards[shard]
        if shard not in self._files:
            try:
                self._files[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise IntegrityError(
                    f"cannot read shard {path}: {error}; run `--from shard`"
                ) from error
        content = os.pread(self._files[shard], size, offset)
        if len(content) != size:
            raise IntegrityError(
                f"shard {path} is truncated: {size} bytes expected at {offset}, {len(content)} are there; "
                "run `--from shard`"
            )
        return content

    def _choose_caption(self, record: Mapping[str, Any], *, epoch: int, sample_id: int) -> str:
        """Draw a source among those the sample has, by weight, then one of its captions.

        A sample with none of the named sources gives its first caption of any source.
        """
        captions: Mapping[str, list[str]] = record["captions"]
        sources = [
            source
            for source, weight in self._caption_sources.items()
            if weight > 0 and captions.get(source)
        ]
        if not sources:
            return next(iter(captions.values()))[0]
        if len(sources) == 1 and len(captions[sources[0]]) == 1:
            return captions[sources[0]][0]
        draw = generator(self._seed, epoch=epoch, sample_id=sample_id, view=_CAPTION_VIEW).random(2)
        weights = [self._caption_sources[source] for source in sources]
        goal, place = draw[0] * sum(weights), 0
        while place < len(sources) - 1 and goal >= weights[place]:
            goal -= weights[place]
            place += 1
        texts = captions[sources[place]]
        return texts[int(draw[1] * len(texts))]


def _fill_gaps(
    images: list[Tensor | None], captions: list[str], sample_ids: list[int]
) -> tuple[list[Tensor], list[str], list[int]]:
    """Put the nearest earlier sample (cyclically) in the place of a corrupt one, so that batches stay equal.

    Raises: IntegrityError: if the whole batch is corrupt.
    """
    if all(image is None for image in images):
        raise IntegrityError(
            f"every image of a batch is corrupt (sample ids {sample_ids[:5]}...); check the shards"
        )
    pixels: list[Tensor] = []
    for place, image in enumerate(images):
        donor = place
        while (found := images[donor]) is None:
            donor -= 1
        if image is None:
            captions[place], sample_ids[place] = captions[donor], sample_ids[donor]
        pixels.append(found)
    return pixels, captions, sample_ids
