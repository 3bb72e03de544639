"""Partitions: consecutive rows of one table file, named by what they hold and how it is fetched."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.cut import cut_rows
from neuclip.acquire.listing import KnownSlices
from neuclip.acquire.refusals import REFUSED, Refusals
from neuclip.acquire.table import Row, kept_columns, read_rows, table_files
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import as_integers, repeats
from neuclip.stages.keys import digest
from neuclip.storage.uris import name_of

PLAN_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("captions", pa.map_(pa.string(), pa.list_(pa.string()))),
        ("reason", pa.string()),
        ("sha256", pa.string()),
    ]
)
"""A planned row: `reason` says why it is not handed to the downloader, null if it is; sha256: of the bytes it
must have, null if the table does not say."""

_SHAPES_ROWS_ONLY = {
    "table",
    "adopt",
    "url_column",
    "caption_column",
    "uid_column",
    "sha256_column",
    "caption_columns",
    "keep_columns",
    "on_duplicate_uid",
    "partition_rows",
    "max_failed_share",
    "refuse",
}
"""Settings that a partition's key takes in by the rows they lead to, or not at all."""

Settings = dict[str, Any]
_Uids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Partition:
    """A slice of one table file; its rows wait in a Parquet file of PLAN_SCHEMA."""

    key: str
    file: str
    first_row: int
    num_rows: int
    num_to_fetch: int
    plan_path: Path
    columns_path: Path | None = None
    """The columns that are kept, row by row beside the planned rows; none if the recipe keeps none."""
    first_uid: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Read the planned rows."""
        return pq.read_table(self.plan_path).to_pylist()


def fetch_settings(config: AcquireConfig) -> Settings:
    """Return the settings that can change what a row becomes."""
    return {name: v for name, v in config.keyed().items() if name not in _SHAPES_ROWS_ONLY}


def plan(
    config: AcquireConfig,
    *,
    stage_version: int,
    folder: Path,
    known: KnownSlices | None = None,
    taken_down: Refusals | None = None,
) -> list[Partition]:
    """Read the whole table and cut it into partitions, in order of file name and row.

    A partition's key is the hash of its rows and of the fetch settings, so a file that is added, and rows that are
    appended, leave all other partitions alone.

    Args:
        known: slices that earlier runs made partitions of; rows that are in none are cut by `partition_rows`.
        taken_down: pairs that are not to be fetched, and keep neither URL nor captions. Keys do not tell of them:
            what a takedown left of a committed partition is still that partition.

    Raises: DataError: if the table is empty, unreadable, or has a uid twice (see on_duplicate_uid).
    """
    folder.mkdir(parents=True, exist_ok=True)
    planned: list[Partition] = []
    uids: list[_Uids] = []
    settings: Settings = {"stage_version": stage_version, "settings": fetch_settings(config)}
    for file, first_row, found in _slices(config, known or {}, settings):
        path = folder / f"{len(planned):08d}.parquet"
        key = _key(found, settings)
        rows = [_without(row, taken_down) for row in found] if taken_down else found
        _write(rows, path)
        columns_path = None
        if config.keep_columns:
            columns_path = path.with_suffix(".columns.parquet")
            pq.write_table(kept_columns(rows, config.keep_columns), columns_path)
        planned.append(
            Partition(
                key=key,
                file=name_of(file),
                first_row=first_row,
                num_rows=len(rows),
                num_to_fetch=sum(row.reason is None for row in rows),
                plan_path=path,
                columns_path=columns_path,
                first_uid=rows[0].uid,
            )
        )
        uids.append(as_integers("".join(row.uid for row in rows)))
    if not planned:
        raise DataError(
            f"the URL table {config.source} has no rows; set acquire.table to one that has"
        )
    if config.on_duplicate_uid == "error" and len(again := repeats(np.concatenate(uids))):
        raise DataError(_describe_duplicates(again, np.concatenate(uids), planned))
    return planned


def _slices(
    config: AcquireConfig, known: KnownSlices, settings: Settings
) -> Iterator[tuple[str, int, list[Row]]]:
    files = table_files(config.source)
    again = _repeated(files, config)
    refused = _refused(config)
    before = 0
    for file in files:
        first_row = 0
        rows = _marked(read_rows(file, config), before, again, refused)
        for cut in cut_rows(
            rows, known, lambda rows: _key(rows, settings), partition_rows=config.partition_rows
        ):
            yield file, first_row, cut
            first_row += len(cut)
        before += first_row


def _refused(config: AcquireConfig) -> Refusals:
    return Refusals.of(config.refuse.uids, config.refuse.urls, config.refuse.hosts)


def _repeated(files: list[str], config: AcquireConfig) -> frozenset[int]:
    """Return the places in the whole table of rows with a uid that an earlier row has, if only the first is kept.

    They are known before the rows are cut, since a key tells of them.
    """
    if config.on_duplicate_uid == "error":
        return frozenset()
    uids = "".join(row.uid for file in files for row in read_rows(file, config))
    return frozenset(repeats(as_integers(uids)).tolist())


def _marked(
    rows: Iterator[Row], before: int, again: frozenset[int], refused: Refusals
) -> Iterator[Row]:
    """Give the rows that are not to be fetched their reason; `before` rows stand before them in the table."""
    for place, row in enumerate(rows, start=before):
        if place in again:
            yield replace(row, reason="duplicate_uid")
        elif row.reason is None and refused.names_pair(row.uid, row.url):
            yield replace(row, reason=REFUSED)
        else:
            yield row


def _without(row: Row, taken_down: Refusals) -> Row:
    """Return a row with nothing but its uid if it was taken down."""
    if not taken_down.names_pair(row.uid, row.url):
        return row
    kept = tuple(None for _ in row.kept)
    return replace(row, url=None, captions={}, reason=row.reason or REFUSED, kept=kept)


def _key(rows: list[Row], settings: Settings) -> str:
    content = [
        [row.uid, row.url, row.captions, row.reason, *filter(None, [row.sha256])] for row in rows
    ]
    return digest({**settings, "rows": content})


def _write(rows: list[Row], path: Path) -> None:
    table = pa.table(
        {
            "uid": [row.uid for row in rows],
            "url": [row.url for row in rows],
            "captions": [list(row.captions.items()) for row in rows],
            "reason": [row.reason for row in rows],
            "sha256": [row.sha256 for row in rows],
        },
        schema=PLAN_SCHEMA,
    )
    pq.write_table(table, path)


def _describe_duplicates(
    again: npt.NDArray[np.int64], every: _Uids, planned: list[Partition]
) -> str:
    starts = np.cumsum([0] + [partition.num_rows for partition in planned])
    examples: list[str] = []
    for position in again[:3].tolist():
        index = int(np.searchsorted(starts, position, side="right")) - 1
        row = planned[index].first_row + position - int(starts[index])
        high, low = every[position].tolist()
        examples.append(f"{high:016x}{low:016x} (row {row} of {planned[index].file})")
    return (
        f"{len(again)} rows of the URL table have a uid that an earlier row has: {', '.join(examples)}; "
        "give every pair its own uid, or set acquire.on_duplicate_uid=keep_first"
    )
