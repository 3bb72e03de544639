"""Read, decode and transform the samples of a batch."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import torch
from torch import Tensor
from torch.utils.data import Dataset

from neuclip.foundation.errors import ConfigError, DataError, IntegrityError
from neuclip.index.reader import SampleTable
from neuclip.loading.batch import Batch
from neuclip.loading.captions import Captions
from neuclip.loading.mapped_files import GB, MappedFiles
from neuclip.loading.masked import Masked
from neuclip.loading.policies import Caption
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.shown import Shown
from neuclip.loading.text_features import TextFeatures
from neuclip.loading.views import ImageView, TextView, text_ids
from neuclip.loading.visits import Visit

log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """A sample that decodes, by view."""

    visit: Visit
    images: dict[str, Tensor]
    captions: dict[str, Caption]
    features: dict[str, Tensor]


class ShardSamples(Dataset[Batch]):
    """Samples by (epoch, sample_id), read from shards by offset.

    Everything drawn at random is keyed by (seed, epoch, sample_id, view).

    Args:
        files: opens the shards.
        table: where the samples lie.
        images: the views of an image, one or more.
        texts: the views of its texts, one or more.
        captions: the texts themselves.
        seed: of all drawing.
    """

    def __init__(
        self,
        files: ShardFiles,
        table: SampleTable,
        *,
        images: Sequence[ImageView],
        texts: Sequence[TextView],
        captions: Captions,
        seed: int,
    ) -> None:
        self.files, self._table, self._seed = files, table, seed
        self._images, self._texts, self.captions = images, texts, captions

    def _side_files(self) -> Iterator[MappedFiles]:
        """Yield the files of the sources that some view may read."""
        sources = sorted({source for view in self._texts for source in view.sources})
        yield from self.captions.side.files(sources)
        if self._features is not None:
            yield from self._features.side.files(sources)

    @property
    def _features(self) -> TextFeatures | None:
        """The features that all views share, if they show features."""
        return next((view.features for view in self._texts), None)

    def fetch(self, name: str) -> None:
        """Fetch a shard of a remote root, and the texts that belong to it."""
        self.files.fetch(name)
        for texts in self._side_files():
            texts.fetch(name)

    def require_room(self, names: Sequence[str], *, processes: int) -> None:
        """Refuse a cache that cannot hold the shards in use at once, which would be fetched for every batch.

        Args:
            names: shards that one process needs at once.
            processes: how many of its kind share the cache.
        Raises: ConfigError: saying how much is needed.
        """
        beside = sum(texts.size_bytes([name]) for name in names for texts in self._side_files())
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
        seen: list[_Seen | None] = [None] * len(pairs)
        corrupt: list[int] = []
        for place, shard, row, content, record in self._read([sample_id for _, sample_id in pairs]):
            visit = Visit(self._seed, *pairs[place])
            try:
                images = {view.name: view.of(content, visit) for view in self._images}
            except DataError as error:
                log.warning("sample %d (%s) is corrupt: %s", visit.sample_id, record["uid"], error)
                corrupt.append(visit.sample_id)
                continue
            captions = {
                view.name: view.choose(self.captions, shard, row, visit) for view in self._texts
            }
            features = {
                view.name: view.features.of(self.captions, shard, row, captions[view.name])
                for view in self._texts
                if view.features is not None
            }
            seen[place] = _Seen(visit, images, captions, features)
        return self._joined(_without_gaps(seen, pairs), corrupt)

    def _joined(self, samples: Sequence[_Seen], corrupt: list[int]) -> Batch:
        visits = [sample.visit for sample in samples]
        sample_ids = [visit.sample_id for visit in visits]
        captions = {view.name: [one.captions[view.name] for one in samples] for view in self._texts}
        ids = torch.tensor(sample_ids)
        patches = {view.name: view.patches(visits) for view in self._images}
        texts: dict[str, Tensor] = {}
        masked: dict[str, Masked] = {}
        for view in self._texts:
            if view.features is not None:
                texts[view.name] = torch.stack([one.features[view.name] for one in samples])
                continue
            chosen = [caption.text for caption in captions[view.name]]
            texts[view.name] = view.tokenize(chosen, visits, view.name)
            if view.mask is not None:
                texts[view.name], masked[view.name] = view.mask(texts[view.name], visits, view.name)
        return Batch(
            images={
                view.name: torch.stack([sample.images[view.name] for sample in samples])
                for view in self._images
            },
            texts=texts,
            sample_ids=ids,
            text_ids={
                name: torch.from_numpy(text_ids(chosen, sample_ids))
                for name, chosen in captions.items()
            },
            corrupt=corrupt,
            cpu_ids=ids,
            shown={name: Shown.of(chosen) for name, chosen in captions.items()},
            patches={name: kept for name, kept in patches.items() if kept is not None},
            masked=masked,
        )

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
        self.captions.side.close_all_but(names)
        if self._features is not None:
            self._features.side.close_all_but(names)


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


def _without_gaps(seen: Sequence[_Seen | None], pairs: Sequence[tuple[int, int]]) -> list[_Seen]:
    """Put the nearest earlier sample (cyclically) in the place of a corrupt one, so that batches stay equal.

    Raises: IntegrityError: if the whole batch is corrupt.
    """
    if not any(seen):
        raise IntegrityError(
            f"every image of a batch is corrupt (sample ids {[one for _, one in pairs[:5]]}...); check the shards"
        )
    samples: list[_Seen] = []
    for place in range(len(seen)):
        donor = place
        while (found := seen[donor]) is None:
            donor -= 1
        samples.append(found)
    return samples
