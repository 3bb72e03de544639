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
from neuclip.acquire.table import Row, kept_columns, read_rows, slices, table_files
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
    ]
)
"""A planned row: `reason` says why it is not handed to the downloader, null if it is."""

_SHAPES_ROWS_ONLY = {
    "table",
    "adopt",
    "url_column",
    "caption_column",
    "uid_column",
    "caption_columns",
    "keep_columns",
    "on_duplicate_uid",
    "partition_rows",
    "max_failed_share",
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

    def rows(self) -> list[dict[str, Any]]:
        """Read the planned rows."""
        return pq.read_table(self.plan_path).to_pylist()


def fetch_settings(config: AcquireConfig) -> Settings:
    """Return the settings that can change what a row becomes."""
    return {name: v for name, v in config.keyed().items() if name not in _SHAPES_ROWS_ONLY}


def plan(config: AcquireConfig, *, stage_version: int, folder: Path) -> list[Partition]:
    """Read the whole table and cut it into partitions, in order of file name and row.

    A partition's key is the hash of its rows and of the fetch settings, so a file that is added leaves
    the partitions of the other files alone.
    Raises: DataError: if the table is empty, unreadable, or has a uid twice (see on_duplicate_uid).
    """
    folder.mkdir(parents=True, exist_ok=True)
    planned: list[Partition] = []
    uids: list[_Uids] = []
    settings: Settings = {"stage_version": stage_version, "settings": fetch_settings(config)}
    for file, first_row, rows in _slices(config):
        path = folder / f"{len(planned):08d}.parquet"
        partition = _write(rows, settings, path, name_of(file), first_row)
        if config.keep_columns:
            columns_path = path.with_suffix(".columns.parquet")
            pq.write_table(kept_columns(rows, config.keep_columns), columns_path)
            partition = replace(partition, columns_path=columns_path)
        planned.append(partition)
        uids.append(as_integers("".join(row.uid for row in rows)))
    if not planned:
        raise DataError(
            f"the URL table {config.source} has no rows; set acquire.table to one that has"
        )
    for index, again in _repeated(uids, planned, config):
        old = planned[index]
        rows = [
            Row(
                uid=row["uid"],
                url=row["url"],
                captions=dict(row["captions"]),
                reason="duplicate_uid" if number in again else row["reason"],
            )
            for number, row in enumerate(old.rows())
        ]
        again_written = _write(rows, settings, old.plan_path, old.file, old.first_row)
        planned[index] = replace(again_written, columns_path=old.columns_path)
    return planned


def _slices(config: AcquireConfig) -> Iterator[tuple[str, int, list[Row]]]:
    for file in table_files(config.source):
        first_row = 0
        for rows in slices(read_rows(file, config), config.partition_rows):
            yield file, first_row, rows
            first_row += len(rows)


def _write(rows: list[Row], settings: Settings, path: Path, file: str, first_row: int) -> Partition:
    content = [[row.uid, row.url, row.captions, row.reason] for row in rows]
    table = pa.table(
        {
            "uid": [row.uid for row in rows],
            "url": [row.url for row in rows],
            "captions": [list(row.captions.items()) for row in rows],
            "reason": [row.reason for row in rows],
        },
        schema=PLAN_SCHEMA,
    )
    pq.write_table(table, path)
    return Partition(
        key=digest({**settings, "rows": content}),
        file=file,
        first_row=first_row,
        num_rows=len(rows),
        num_to_fetch=sum(row.reason is None for row in rows),
        plan_path=path,
    )


def _repeated(
    uids: list[_Uids], planned: list[Partition], config: AcquireConfig
) -> Iterator[tuple[int, set[int]]]:
    """Yield, for each partition that has some, the rows whose uid an earlier row has already.

    Raises: DataError: if there are some and on_duplicate_uid is `error`.
    """
    every = np.concatenate(uids)
    again = repeats(every)
    if not len(again):
        return
    starts = np.cumsum([0] + [partition.num_rows for partition in planned])
    if config.on_duplicate_uid == "error":
        raise DataError(_describe_duplicates(again, every, starts, planned))
    of_partition = np.searchsorted(starts, again, side="right") - 1
    for index in np.unique(of_partition).tolist():
        yield index, set((again[of_partition == index] - starts[index]).tolist())


def _describe_duplicates(
    again: npt.NDArray[np.int64],
    every: _Uids,
    starts: npt.NDArray[np.int64],
    planned: list[Partition],
) -> str:
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
