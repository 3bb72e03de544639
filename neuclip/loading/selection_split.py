"""The held-out selection split: pairs of an image file and a text."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice

from neuclip.foundation.errors import DataError
from neuclip.loading.captions import Captions
from neuclip.loading.mapped_files import CACHE_GB
from neuclip.loading.tar_samples import IMAGE_SUFFIXES, read_samples
from neuclip.shards.members import shard_files_uri, shard_records
from neuclip.stages.committed import committed_file
from neuclip.storage.uris import join, name_of, parent_of

_PATTERN = "selection-*.tar"
_WANTED = frozenset([*IMAGE_SUFFIXES, "txt"])
_LEAST_PAIRS = 2


@dataclass(frozen=True)
class Pair:
    """One held-out sample."""

    key: str
    image: bytes
    caption: str


def read_selection_split(shard_uri: str, index_uri: str, *, max_samples: int) -> list[Pair]:
    """Read the first pairs of a shard stage's selection split; each part was shuffled when it was written.

    A pair is held against its alt text, one without against its first text of another source.

    Raises: DataError: if it is too small to choose by.
    """
    pairs = list(islice(_pairs(shard_uri, index_uri), max_samples))
    if len(pairs) < _LEAST_PAIRS:
        raise DataError(
            f"the selection split in {shard_uri} holds {len(pairs)} pairs, which is too few to choose a checkpoint "
            "by; raise shard.selection_share, or give the recipe more data"
        )
    return pairs


def _pairs(shard_uri: str, index_uri: str) -> Iterator[Pair]:
    """Yield the pairs of all selection shards in the order of parts and names."""
    folder = shard_files_uri(shard_uri)
    others = Captions(index_uri, cache_gb=CACHE_GB)
    for name in shard_records(shard_uri):
        if not fnmatch(name_of(name), _PATTERN):
            continue
        path = committed_file(join(folder, parent_of(name)), name_of(name))
        for row, sample in enumerate(read_samples(path, suffixes=_WANTED)):
            image, alt = sample.image(), sample.parts.get("txt")
            if image is None:
                raise DataError(
                    f"{join(folder, name)}: sample {sample.key!r} has {sorted(sample.parts)}; "
                    f"expected one of {', '.join(IMAGE_SUFFIXES)}"
                )
            text = others.first(name, row)[0] if alt is None else alt.decode(errors="replace")
            yield Pair(sample.key, image, text.strip())
