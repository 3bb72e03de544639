"""Erase the texts of pairs and their features from side files: the places of the samples stay, without a word."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from neuclip.index.side_files import (
    SAMPLES,
    SHARD_PART,
    TEXT_PART,
    features_name,
    texts_name,
)
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.stages.open_folder import OpenFolder
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

ArrowBatch = Any
"""A pyarrow.RecordBatch; pyarrow has no types."""
Rows = dict[str, set[int]]
"""Side file of texts -> rows of samples."""


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
    if TEXT_PART in read_manifest(uri).inputs:
        _erase_features(uri, rows, takedown, scratch)
    else:
        _erase_texts(uri, rows, takedown, scratch)


def _erase_features(uri: str, rows: Rows, takedown: int, scratch: Path) -> None:
    """Leave out the features of texts that are erased beside them, so that the others stand where their texts do."""
    folder = OpenFolder(uri, read_manifest(uri), scratch)
    samples = pq.read_table(local_copy(join(uri, SAMPLES)))
    counts = samples["texts"].to_numpy().copy()
    shards = np.array(samples["shard"].to_pylist())
    for shard in np.unique(shards):
        places = rows.get(texts_name(str(shard)))
        if not places:
            continue
        here = np.flatnonzero(shards == shard)
        gone = np.zeros(len(here), bool)
        gone[list(places)] = True
        features = np.load(local_copy(join(uri, features_name(str(shard)))), allow_pickle=False)
        is_kept = np.repeat(~gone, counts[here])
        # A takedown that was cut short may have left them out before.
        kept = features[is_kept] if len(features) == len(is_kept) else features
        counts[here[gone]] = 0
        folder.replace(
            features_name(str(shard)),
            lambda path, kept=kept: np.save(path, kept, allow_pickle=False),
        )
    left = samples.set_column(2, "texts", pa.array(counts, pa.int32()))
    folder.replace(SAMPLES, lambda path: pq.write_table(left, path, compression="zstd"))
    folder.close(takedown)


def _erase_texts(uri: str, rows: Rows, takedown: int, scratch: Path) -> None:
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
