"""The pairs of one acquire partition: uid, a caption, and the image's bytes."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from os import cpu_count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from neuclip.acquired.partitions import ROWS
from neuclip.acquired.raw_images import RawImages
from neuclip.acquired.texts import TEXTS
from neuclip.stages.committed import committed_file

CHUNK = 1024
"""Pairs in hand at once."""
_MOST_THREADS = 16
_COLUMNS = ["uid", "status", "member", "offset", "size"]


@dataclass(frozen=True)
class Pair:
    """One row of a partition; `member`, `offset`, `size` say where its image is, None where none was fetched."""

    uid: str
    caption: str | None
    """The first one of the source that was asked for, None where it has none."""
    member: str | None
    offset: int
    size: int


@dataclass(frozen=True)
class Partition:
    """All rows of a partition in order, with their images at hand."""

    pairs: list[Pair]
    image: Callable[[Pair], bytes]
    """Reads the image file of a pair that has one; called by several threads."""


def read_partition(folder_uri: str, texts_uri: str, source: str | None) -> Partition:
    """Read a committed acquire partition.

    Args:
        texts_uri: the part with its texts.
        source: whose captions are wanted; None leaves them out.
    """
    images = RawImages([folder_uri])

    def read(pair: Pair) -> bytes:
        place: dict[str, Any] = {"member": pair.member, "offset": pair.offset}
        return images.read({**place, "size": pair.size, "partition": 0})

    rows = committed_file(folder_uri, ROWS)
    captions = _captions(texts_uri, source) if source is not None else repeat(None)
    return Partition(list(_read_pairs(rows, captions)), read)


@contextmanager
def decoding_threads() -> Generator[ThreadPoolExecutor]:
    """Open threads for work that releases the interpreter's lock, such as decoding images."""
    with ThreadPoolExecutor(min(cpu_count() or 1, _MOST_THREADS)) as threads:
        yield threads


def chunks(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """Cut pairs into runs of CHUNK."""
    for start in range(0, len(pairs), CHUNK):
        yield pairs[start : start + CHUNK]


def _captions(texts_uri: str, source: str) -> Iterator[str | None]:
    with pq.ParquetFile(committed_file(texts_uri, TEXTS)) as file:
        for batch in file.iter_batches(CHUNK, columns=["captions"]):
            for captions in batch["captions"].to_pylist():
                yield dict(captions or ()).get(source, [None])[0]


def _read_pairs(rows: Path, captions: Iterator[str | None]) -> Iterator[Pair]:
    with pq.ParquetFile(rows) as file:
        for batch in file.iter_batches(CHUNK, columns=_COLUMNS):
            for row in batch.to_pylist():
                is_there = row["status"] == "success"
                yield Pair(
                    uid=row["uid"],
                    caption=next(captions),
                    member=row["member"] if is_there else None,
                    offset=row["offset"] if is_there else 0,
                    size=row["size"] if is_there else 0,
                )
