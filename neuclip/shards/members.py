"""The member table: one row for each packed sample, saying where its bytes lie."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.stages.manifest import FileRecord, part_uri, read_manifest
from neuclip.storage.uris import join, parent_of

TRAIN, SELECTION = "train", "selection"

MEMBER_SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "sample_id": pa.int64(),
        "uid": pa.string(),
        "shard": pa.string(),
        "image_member": pa.string(),
        "image_offset": pa.int64(),
        "image_size": pa.int64(),
        "json_offset": pa.int64(),
        "json_size": pa.int64(),
        "text_offset": pa.int64(),
        "text_size": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "image_sha256": pa.string(),
    }
)
"""A row. shard: path of the tar below the root's `shard` folder; sample_id: null in the held-out split; text: the
alt text, null where there is none. The samples of a shard stand in its order."""


class MemberTable:
    """Writes a member table piece by piece."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, MEMBER_SCHEMA, compression="zstd")

    def __enter__(self) -> "MemberTable":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append the rows of one shard."""
        self._writer.write_table(pa.Table.from_pylist(rows, schema=MEMBER_SCHEMA))

    def copy(self, path: Path) -> None:
        """Append all rows of another member table."""
        with pq.ParquetFile(path) as other:
            for batch in other.iter_batches():
                self._writer.write_batch(batch)


def shard_files_uri(shard_uri: str) -> str:
    """Return the folder that the names of shards start at."""
    return parent_of(shard_uri)


def shard_records(shard_uri: str) -> dict[str, FileRecord]:
    """Return the tars of a committed shard stage in order: name, as in the member table -> what was committed."""
    return {
        join("parts", key, file.name): file
        for key in read_manifest(shard_uri).parts
        for file in read_manifest(part_uri(shard_uri, key)).files
        if file.name.endswith(".tar")
    }
