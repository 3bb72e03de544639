"""Side files: what belongs to a sample beside its image, one file a shard with a row for each of its samples, in order.

They are committed apart from the shards, for each part of the shard stage and each name, so that a new source of texts
changes no tar. `side_files.parquet` of the index lists them.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from neuclip.foundation.errors import IntegrityError
from neuclip.stages.committed import committed_file, holds_file
from neuclip.stages.manifest import PARTS, FileRecord, part_uri, read_manifest, verify_sizes
from neuclip.storage.tables import ArrowColumn
from neuclip.storage.uris import join, name_of

SIDE_FILES = "side_files.parquet"
SIDE_FILES_SCHEMA = pa.schema(
    {"source": pa.string(), "shard_part": pa.string(), "part": pa.string(), "texts": pa.int64()}
)
"""source: of the texts; part: among the index's, with a file for each tar of the shard part."""
SIDE_FEATURES = "side_features.parquet"
"""Likewise of the features of texts, where a text encoder made some."""
SIDE_FEATURES_SCHEMA = SIDE_FILES_SCHEMA
SAMPLES = "samples.parquet"
"""Of a side part: uid and shard of every sample, in order, by which a takedown finds the texts of a pair; of
features also how many `texts` each has."""
SHARD_PART, TEXT_PART = "shard part", "text part"
"""Inputs of a side part's manifest; the second only of features: the side part with their texts."""

_TEXTS = pa.schema({"texts": pa.large_list(pa.large_string())})
_SOURCE, _SHARD = b"source", b"shard"
_OFFSET_BYTES = 8


def texts_name(shard: str) -> str:
    """Return the name of the file with the texts of a shard's samples."""
    return f"{Path(name_of(shard)).stem}.arrow"


def features_name(shard: str) -> str:
    """Return the name of the file with the features of the texts of a shard's samples."""
    return f"{Path(name_of(shard)).stem}.npy"


def write_texts(path: Path, texts: Sequence[Sequence[str]], *, source: str, shard: str) -> None:
    """Write the texts of a shard's samples in order, an empty list for one without any."""
    schema = _TEXTS.with_metadata({_SOURCE: source.encode(), _SHARD: name_of(shard).encode()})
    table = pa.table([pa.array(texts, _TEXTS.field(0).type)], schema=schema)
    with ipc.new_file(str(path), schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches(max_chunksize=None)[0])


class SideTexts:
    """The texts of a shard's samples, read where they lie in memory: no row is parsed before it is asked for.

    Raises: IntegrityError: if the file holds other texts than those that are wanted.
    """

    def __init__(self, path: Path, content: mmap.mmap, *, source: str, shard: str) -> None:
        try:
            with ipc.open_file(pa.py_buffer(content)) as file:
                metadata = file.schema.metadata or {}
                column = file.get_batch(0).column(0)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise IntegrityError(
                f"{path} is no side file of texts: {error}; run `--only index --force`"
            ) from error
        found = (metadata.get(_SOURCE, b"").decode(), metadata.get(_SHARD, b"").decode())
        if found != (source, name_of(shard)):
            raise IntegrityError(
                f"{path} holds texts of source {found[0]!r} of {found[1] or 'no shard'}, expected {source!r} of "
                f"{name_of(shard)}; run `--only index --force`"
            )
        values = column.values
        self._path = path
        self.count = len(column)
        self._rows = _offsets(column, self.count)
        self._texts = _offsets(values, len(values))
        self._content = memoryview(values.buffers()[2] or b"")

    @property
    def count_of_texts(self) -> int:
        """How many texts all samples have together."""
        return self._rows[self.count]

    def first_of(self, row: int) -> int:
        """Return where the texts of a sample begin, counted over all samples of the shard."""
        return self._rows[row]

    def of(self, row: int) -> list[str]:
        """Return the texts of a sample by its place in the shard."""
        if row >= self.count:
            raise IntegrityError(
                f"{self._path} has texts of {self.count} samples, and the index has sample {row} of this shard; run "
                "`--only index --force`"
            )
        rows, texts, content = self._rows, self._texts, self._content
        return [
            str(content[texts[place] : texts[place + 1]], "utf-8")
            for place in range(rows[row], rows[row + 1])
        ]


def count_texts(index_uri: str) -> dict[str, int]:
    """Return the sources of a committed index, and how many texts each has, after checking the size of their files.

    Raises: IntegrityError: naming a side file that is missing or short.
    """
    counts: dict[str, int] = {}
    for row in pq.read_table(committed_file(index_uri, SIDE_FILES)).to_pylist():
        uri = part_uri(index_uri, row["part"])
        verify_sizes(uri, read_manifest(uri))
        counts[row["source"]] = counts.get(row["source"], 0) + row["texts"]
    return counts


def side_records(index_uri: str) -> dict[str, dict[str, tuple[str, FileRecord]]]:
    """Return the side files of a committed index: source -> tar, as the index names it -> URI, what was committed."""
    return _records(index_uri, SIDE_FILES)


def feature_records(index_uri: str) -> dict[str, dict[str, tuple[str, FileRecord]]]:
    """Return the side files of features of a committed index, likewise; of no source if it has none."""
    return _records(index_uri, SIDE_FEATURES) if holds_file(index_uri, SIDE_FEATURES) else {}


def _records(index_uri: str, listing: str) -> dict[str, dict[str, tuple[str, FileRecord]]]:
    found: dict[str, dict[str, tuple[str, FileRecord]]] = {}
    table = pq.read_table(committed_file(index_uri, listing))
    for row in table.to_pylist():
        uri = part_uri(index_uri, row["part"])
        for file in read_manifest(uri).files:
            if file.name == SAMPLES:
                continue
            shard = join(PARTS, row["shard_part"], f"{Path(file.name).stem}.tar")
            found.setdefault(row["source"], {})[shard] = (join(uri, file.name), file)
    return found


def _offsets(array: ArrowColumn, count: int) -> memoryview:
    """Return where the values of a list or text array begin, and where the last one ends; numpy takes as long again."""
    first = array.offset * _OFFSET_BYTES
    return memoryview(array.buffers()[1])[first : first + (count + 1) * _OFFSET_BYTES].cast("q")
