"""A few training samples with their captions, as the report shows them."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuclip.foundation.errors import DataError
from neuclip.foundation.randomness import permutation
from neuclip.loading.captions import Captions
from neuclip.loading.mapped_files import CACHE_GB
from neuclip.publishing.pictures import small_picture
from neuclip.shards.files import MEMBERS
from neuclip.shards.members import TRAIN, shard_files_uri
from neuclip.stages.committed import committed_file
from neuclip.storage.uris import join, name_of, parent_of

_COLUMNS = ("sample_id", "uid", "shard", "image_offset", "image_size")
_MOST_SHARDS = 4
_SIDE_PX = 176
_MOST_CAPTIONS = 3
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """A tile of the grid."""

    uid: str
    width: int
    height: int
    image: str
    """data: URI of a JPEG."""
    captions: list[tuple[str, str]]
    """(source, text)."""


def sample_grid(shard_uri: str, index_uri: str, count: int) -> list[Sample]:
    """Return up to `count` training samples, chosen by keyed hash from at most four shards.

    An image that does not decode is left out.
    """
    if count == 0:
        return []
    table = pq.read_table(committed_file(shard_uri, MEMBERS))
    table = table.filter(pc.field("split") == TRAIN).select(_COLUMNS)
    captions = Captions(index_uri, cache_gb=CACHE_GB)
    first: dict[str, int] = {}
    for shard, sample_id in zip(
        table["shard"].to_pylist(), table["sample_id"].to_pylist(), strict=True
    ):
        first.setdefault(shard, sample_id)
    names = sorted(set(table["shard"].to_pylist()))
    chosen = [names[i] for i in permutation(len(names), seed=_SEED)[:_MOST_SHARDS]]
    table = table.filter(pc.field("shard").isin(chosen))
    rows = table.take(np.sort(permutation(len(table), seed=_SEED)[:count])).to_pylist()
    samples: list[Sample] = []
    for row in rows:
        part = join(shard_files_uri(shard_uri), parent_of(row["shard"]))
        path = committed_file(part, name_of(row["shard"]))
        with path.open("rb") as file:
            file.seek(row["image_offset"])
            image = file.read(row["image_size"])
        place = row["sample_id"] - first[row["shard"]]
        texts = {source: captions.texts(source, row["shard"], place) for source in captions.sources}
        try:
            samples.append(_tile(row["uid"], image, texts))
        except DataError:
            continue
    return samples


def _tile(uid: str, content: bytes, captions: dict[str, list[str]]) -> Sample:
    """Make the small image and take the first caption of each source."""
    picture = small_picture(content, _SIDE_PX)
    ordered = sorted(captions.items(), key=lambda item: (item[0] != "alt", item[0]))
    return Sample(
        uid=uid,
        width=picture.width,
        height=picture.height,
        image=picture.uri,
        captions=[(source, texts[0]) for source, texts in ordered if texts][:_MOST_CAPTIONS],
    )
