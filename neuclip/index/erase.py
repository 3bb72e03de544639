"""Erase the texts of pairs from side files: the places of the samples stay, without a word."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from neuclip.index.side_files import SAMPLES, SHARD_PART, texts_name
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.stages.open_folder import OpenFolder
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

ArrowBatch = Any
"""A pyarrow.RecordBatch; pyarrow has no types."""
Rows = dict[str, set[int]]
"""Side file -> rows of samples."""


def find_side_parts(stage_uri: str, uids: Collection[str]) -> dict[str, Rows]:
    """Return the committed side parts with samples of one of the pairs, and the rows to erase in each."""
    found: dict[str, Rows] = {}
    for part in list_folders(join(stage_uri, PARTS)):
        uri = join(stage_uri, PARTS, part)
        if is_committed(uri) and SHARD_PART in read_manifest(uri).inputs:
            rows = _rows(uri, uids)
            if rows:
                found[part] = rows
    return found


def erase_side_part(uri: str, rows: Rows, takedown: int, scratch: Path) -> None:
    """Erase rows of the files of a side part."""
    folder = OpenFolder(uri, read_manifest(uri), scratch)
    for name, places in rows.items():
        with ipc.open_file(str(local_copy(join(uri, name)))) as file:
            table = file.read_all()
        texts = table["texts"].to_pylist()
        blanked = [[] if row in places else of_row for row, of_row in enumerate(texts)]
        column = pa.array(blanked, table.schema.field(0).type)
        batch = pa.record_batch([column], schema=table.schema)

        def write(path: Path, batch: ArrowBatch = batch) -> None:
            with ipc.new_file(str(path), batch.schema) as writer:
                writer.write_batch(batch)

        folder.replace(name, write)
    folder.close(takedown)


def _rows(uri: str, uids: Collection[str]) -> Rows:
    """Return where pairs stand in the files of a side part."""
    found: Rows = {}
    table = pq.read_table(local_copy(join(uri, SAMPLES)))
    counts: dict[str, int] = {}
    for uid, shard in zip(table["uid"].to_pylist(), table["shard"].to_pylist(), strict=True):
        row = counts[shard] = counts.get(shard, -1) + 1
        if uid in uids:
            found.setdefault(texts_name(shard), set()).add(row)
    return found
