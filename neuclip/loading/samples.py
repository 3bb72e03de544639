"""Read, decode and transform the samples of a batch."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.foundation.randomness import generator
from neuclip.index.reader import SampleTable
from neuclip.loading.shard_files import ShardFiles

log = logging.getLogger(__name__)

_IMAGE_VIEW, _CAPTION_VIEW = 0, 1

ToPixels = Callable[[bytes, np.random.Generator], UInt8[Tensor, "3 H W"]]
Tokenize = Callable[[list[str]], Int64[Tensor, "B context"]]


@dataclass(frozen=True)
class Batch:
    """A batch of one rank. B is the local batch."""

    images: UInt8[Tensor, "B 3 H W"]
    """Not normalised: that is for the device, which gets a quarter of the bytes so."""
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

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return sum(tensor.nbytes for tensor in (self.images, self.tokens, self.sample_ids))

    def share_memory(self) -> "Batch":
        """Move the tensors to memory that other processes can be given.

        Raises: RuntimeError: if there is no room.
        """
        for tensor in (self.images, self.tokens, self.sample_ids):
            tensor.share_memory_()
        return self

    def pin_memory(self) -> "Batch":
        """Move the tensors to page-locked memory; torch's loader calls this."""
        return replace(
            self,
            images=self.images.pin_memory(),
            tokens=self.tokens.pin_memory(),
            sample_ids=self.sample_ids.pin_memory(),
        )


class ShardSamples(Dataset[Batch]):
    """Samples by (epoch, sample_id), read from shards by offset.

    Everything drawn at random is keyed by (seed, epoch, sample_id, view).

    Args:
        files: opens the shards.
        table: where the samples lie.
        to_pixels: makes pixels of an image file and a random generator; raises DataError for a corrupt one.
        tokenize: makes token ids of texts.
        caption_sources: source -> weight it is drawn with among the sources a sample has.
        seed: of all drawing.
    """

    def __init__(
        self,
        files: ShardFiles,
        table: SampleTable,
        *,
        to_pixels: ToPixels,
        tokenize: Tokenize,
        caption_sources: Mapping[str, float],
        seed: int,
    ) -> None:
        self.files, self._table, self._seed = files, table, seed
        self._to_pixels, self._tokenize = to_pixels, tokenize
        self._caption_sources = dict(caption_sources)

    def names(self, shards: Sequence[int]) -> list[str]:
        """Return the names of shards by their place in the table."""
        return [self._table.shards[shard] for shard in shards]

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> Batch:
        """Make the batch of a list of (epoch, sample_id); torch's loader calls this with a whole batch."""
        ids = [sample_id for _, sample_id in pairs]
        images: list[Tensor | None] = [None] * len(ids)
        captions = [""] * len(ids)
        corrupt: list[int] = []
        for place, image_bytes, record in self._read(ids):
            epoch, sample_id = pairs[place]
            captions[place] = self._choose_caption(record, epoch=epoch, sample_id=sample_id)
            draw = generator(self._seed, epoch=epoch, sample_id=sample_id, view=_IMAGE_VIEW)
            try:
                images[place] = self._to_pixels(image_bytes, draw)
            except DataError as error:
                log.warning("sample %d (%s) is corrupt: %s", sample_id, record["uid"], error)
                corrupt.append(sample_id)
        pixels, texts, ids = _fill_gaps(images, captions, ids)
        return Batch(torch.stack(pixels), self._tokenize(texts), torch.tensor(ids), corrupt)

    def _read(self, sample_ids: Sequence[int]) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
        """Yield place, image bytes and metadata record of samples, shard by shard."""
        table, ids = self._table, np.asarray(sample_ids)
        places_of: defaultdict[int, list[int]] = defaultdict(list)
        for place, shard in enumerate(table.shard[ids].tolist()):
            places_of[shard].append(place)
        columns = (table.image_offset, table.image_size, table.json_offset, table.json_size)
        lies = list(zip(*(column[ids].tolist() for column in columns), strict=True))
        for shard, places in places_of.items():
            file = self.files.open(table.shards[shard])
            for place in places:
                image_offset, image_size, json_offset, json_size = lies[place]
                image = file.read(image_offset, image_size)
                record = _record(file.read(json_offset, json_size), sample_ids[place], file.path)
                yield place, image, record
        self.files.close_all_but(self.names(list(places_of)))

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


def _record(text: bytes, sample_id: int, path: Path) -> dict[str, Any]:
    """Parse a metadata record and make sure that it is the wanted sample's."""
    try:
        record: dict[str, Any] = orjson.loads(text)
        found = record["sample_id"]
    except (ValueError, KeyError, TypeError) as error:
        found = f"{text[:40]!r} ({error})"
        record = {}
    if found != sample_id:
        raise IntegrityError(
            f"{path} holds sample {found} where the index has {sample_id}; the shard was changed after the index "
            "was made: run `--from shard --force`"
        )
    return record


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
