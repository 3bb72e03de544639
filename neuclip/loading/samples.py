"""Read, decode and transform the samples of a batch."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from neuclip.foundation.errors import ConfigError, DataError, IntegrityError
from neuclip.foundation.randomness import generator
from neuclip.index.reader import SampleTable
from neuclip.loading.captions import Captions
from neuclip.loading.mapped_files import GB
from neuclip.loading.shard_files import ShardFiles

log = logging.getLogger(__name__)

_IMAGE_VIEW = 0

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
        captions: what each sample is said to show.
        seed: of all drawing.
    """

    def __init__(
        self,
        files: ShardFiles,
        table: SampleTable,
        *,
        to_pixels: ToPixels,
        tokenize: Tokenize,
        captions: Captions,
        seed: int,
    ) -> None:
        self.files, self._table, self._seed = files, table, seed
        self._to_pixels, self._tokenize = to_pixels, tokenize
        self.captions = captions

    def fetch(self, name: str) -> None:
        """Fetch a shard of a remote root, and the texts that belong to it."""
        self.files.fetch(name)
        for texts in self.captions.weighed():
            texts.fetch(name)

    def require_room(self, names: Sequence[str], *, processes: int) -> None:
        """Refuse a cache that cannot hold the shards in use at once, which would be fetched for every batch.

        Args:
            names: shards that one process needs at once.
            processes: how many of its kind share the cache.
        Raises: ConfigError: saying how much is needed.
        """
        beside = sum(
            texts.size_bytes([name]) for name in names for texts in self.captions.weighed()
        )
        needed_gb = (self.files.size_bytes(names) + beside) * processes / GB
        if needed_gb > self.files.cache_gb:
            raise ConfigError(
                f"train.loader.cache_gb {self.files.cache_gb:g} is too small: {processes} processes on this machine "
                f"read shards of {needed_gb:.3g} GB at once (the present and the next of each stream); give that, "
                "or lower train.streams or shard.samples_per_shard"
            )

    def names(self, shards: Sequence[int]) -> list[str]:
        """Return the names of shards by their place in the table."""
        return [self._table.shards[shard] for shard in shards]

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> Batch:
        """Make the batch of a list of (epoch, sample_id); torch's loader calls this with a whole batch."""
        ids = [sample_id for _, sample_id in pairs]
        images: list[Tensor | None] = [None] * len(ids)
        captions = [""] * len(ids)
        corrupt: list[int] = []
        for place, shard, row, image_bytes, record in self._read(ids):
            epoch, sample_id = pairs[place]
            captions[place] = self.captions.choose(shard, row, epoch=epoch, sample_id=sample_id)
            draw = generator(self._seed, epoch=epoch, sample_id=sample_id, view=_IMAGE_VIEW)
            try:
                images[place] = self._to_pixels(image_bytes, draw)
            except DataError as error:
                log.warning("sample %d (%s) is corrupt: %s", sample_id, record["uid"], error)
                corrupt.append(sample_id)
        pixels, texts, ids = _fill_gaps(images, captions, ids)
        return Batch(torch.stack(pixels), self._tokenize(texts), torch.tensor(ids), corrupt)

    def _read(
        self, sample_ids: Sequence[int]
    ) -> Iterator[tuple[int, str, int, bytes, dict[str, Any]]]:
        """Yield place, shard, row in it, image bytes and metadata record of samples, shard by shard."""
        table, ids = self._table, np.asarray(sample_ids)
        places_of: defaultdict[int, list[int]] = defaultdict(list)
        for place, shard in enumerate(table.shard[ids].tolist()):
            places_of[shard].append(place)
        columns = (table.image_offset, table.image_size, table.json_offset, table.json_size)
        lies = list(zip(*(column[ids].tolist() for column in columns), strict=True))
        for shard, places in places_of.items():
            name, first = table.shards[shard], int(table.first[shard])
            file = self.files.open(name)
            for place in places:
                image_offset, image_size, json_offset, json_size = lies[place]
                image = file.read(image_offset, image_size)
                record = _record(file.read(json_offset, json_size), sample_ids[place], file.path)
                yield place, name, sample_ids[place] - first, image, record
        names = self.names(list(places_of))
        self.files.close_all_but(names)
        self.captions.close_all_but(names)


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
