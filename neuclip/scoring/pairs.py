"""The pairs of one acquire partition: uid, alt caption, and the image's bytes."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from neuclip.acquire.raw import ROWS
from neuclip.shards.raw_images import RawImages
from neuclip.stages.committed import committed_file

CHUNK = 1024
"""Pairs in hand at once."""
_MOST_THREADS = 16
_COLUMNS = ["uid", "captions", "status", "member", "offset", "size"]


@dataclass(frozen=True)
class Pair:
    """One row of a partition; `member`, `offset`, `size` say where its image is, None where none was brought home."""

    uid: str
    caption: str | None
    """The first alt caption, None where it is missing or blank."""
    member: str | None
    offset: int
    size: int


@dataclass(frozen=True)
class Partition:
    """All rows of a partition in order, with their images at hand."""

    pairs: list[Pair]
    image: Callable[[Pair], bytes]
    """Reads the image file of a pair that has one; called by several threads."""


def read_partition(folder_uri: str) -> Partition:
    """Read a committed acquire partition."""
    images = RawImages([folder_uri])

    def read(pair: Pair) -> bytes:
        place: dict[str, Any] = {"member": pair.member, "offset": pair.offset}
        return images.read({**place, "size": pair.size, "partition": 0})

    return Partition(list(_read_pairs(committed_file(folder_uri, ROWS))), read)


@contextmanager
def decoding_threads() -> Generator[ThreadPoolExecutor]:
    """Open threads for work that releases the interpreter's lock, such as decoding images."""
    with ThreadPoolExecutor(min(cpu_count() or 1, _MOST_THREADS)) as threads:
        yield threads


def chunks(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """Cut pairs into runs of CHUNK."""
    for start in range(0, len(pairs), CHUNK):
        yield pairs[start : start + CHUNK]


def _read_pairs(rows: Path) -> Iterator[Pair]:
    with pq.ParquetFile(rows) as file:
        for batch in file.iter_batches(CHUNK, columns=_COLUMNS):
            for row in batch.to_pylist():
                alts: list[str] = dict(row["captions"] or ()).get("alt") or [""]
                is_there = row["status"] == "success"
                yield Pair(
                    uid=row["uid"],
                    caption=alts[0] if alts[0] and alts[0].strip() else None,
                    member=row["member"] if is_there else None,
                    offset=row["offset"] if is_there else 0,
                    size=row["size"] if is_there else 0,
                )
