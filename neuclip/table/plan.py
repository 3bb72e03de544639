"""Partitions: consecutive rows of one table file, named by what they hold and how it is fetched."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquired.listing import KnownSlices
from neuclip.acquired.reasons import DUPLICATE_UID, REPEATED_ROW
from neuclip.acquired.refusals import REFUSED, Refusals
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import as_integers, repeats
from neuclip.stages.keys import digest
from neuclip.storage.uris import name_of
from neuclip.table.config import SourceConfig
from neuclip.table.files import read_rows, table_files
from neuclip.table.kept import kept_columns, settle_types
from neuclip.table.rows import Row
from neuclip.table.slices import slices_of
from neuclip.table.texts import key_of_texts, text_table

PLAN_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("reason", pa.string()),
        ("sha256", pa.string()),
    ]
)
"""A planned row: `reason` says why it is not handed to the downloader, null if it is; sha256: of the bytes it
must have, null if the table does not say."""

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
    texts_path: Path | None = None
    """The texts of the rows, of TEXTS_SCHEMA, row by row beside them; none where they are only fetched."""
    texts_key: str = ""
    columns_path: Path | None = None
    """The columns that are kept, row by row beside the planned rows; none if the recipe keeps none."""
    first_uid: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Read the planned rows."""
        return pq.read_table(self.plan_path).to_pylist()


def plan(
    config: SourceConfig,
    *,
    fetch: Settings,
    partition_rows: int,
    refused: Refusals,
    folder: Path,
    known: KnownSlices | None = None,
    taken_down: Refusals | None = None,
) -> list[Partition]:
    """Read the whole table and cut it into partitions, in order of file name and row.

    A partition's key is the hash of its rows, without their texts, and of the fetch settings: a file that is added, and
    rows that are appended, leave all other partitions alone, and so does another column of texts.

    Args:
        fetch: what else becomes of the same rows depends on; part of each key.
        partition_rows: rows of a partition, at most.
        refused: pairs that are not to be fetched, because the recipe names them.
        known: slices that earlier runs made partitions of; rows that are in none are cut by `partition_rows`.
        taken_down: pairs that are not to be fetched, and keep neither URL nor texts. Keys do not tell of them:
            what a takedown left of a committed partition is still that partition.

    Raises: DataError: if the table is empty, unreadable, or has a uid twice (see on_duplicate_uid).
    """
    folder.mkdir(parents=True, exist_ok=True)
    cutting = _Cutting(fetch, partition_rows, refused, known or {}, taken_down or Refusals())
    table = _Table(config, cutting, folder)
    table.cut({})
    if not table.planned:
        raise DataError(
            f"the URL table {config.source} has no rows; set acquire.table to one that has"
        )
    if again := table.repeated():  # a key tells of them, so they are known before the rows are cut
        table.cut(again)
    if config.keep_columns:
        settle_types(
            [partition.columns_path for partition in table.planned if partition.columns_path]
        )
    return table.planned


@dataclass(frozen=True)
class _Cutting:
    """How a table is cut, see `plan`."""

    fetch: Settings
    partition_rows: int
    refused: Refusals
    known: KnownSlices
    taken_down: Refusals


class _Table:
    """The table of a recipe, read and cut into partitions whose rows are written to a folder."""

    def __init__(self, config: SourceConfig, cutting: _Cutting, folder: Path) -> None:
        self._config, self._cutting, self._folder = config, cutting, folder
        self.planned: list[Partition] = []
        self._uids: list[_Uids] = []
        self._derived: list[bool] = []

    def cut(self, again: Mapping[int, str]) -> None:
        """Read and cut the table; rows at the places of `again` get the reason that stands there."""
        self.planned, self._uids, self._derived = [], [], []
        for file, first_row, rows in self._slices(again):
            self.planned.append(self._partition(file, first_row, rows))
            self._uids.append(as_integers("".join(row.uid for row in rows)))
            self._derived += [row.is_derived for row in rows]

    def repeated(self) -> dict[int, str]:
        """Return place in the table -> reason of the rows with a uid that an earlier row has.

        Raises: DataError: if the table brings a uid twice, and the first is not to be kept.
        """
        uids = np.concatenate(self._uids)
        places = repeats(uids)
        brought = np.array([place for place in places.tolist() if not self._derived[place]])
        if len(brought) and self._config.on_duplicate_uid == "error":
            raise DataError(_describe_duplicates(brought, uids, self.planned))
        return {
            place: REPEATED_ROW if self._derived[place] else DUPLICATE_UID
            for place in places.tolist()
        }

    def _slices(self, again: Mapping[int, str]) -> Iterator[tuple[str, int, list[Row]]]:
        cutting, before = self._cutting, 0
        for file in table_files(self._config.source):
            first_row = 0
            marked = _marked(read_rows(file, self._config), before, again, cutting.refused)
            for rows in slices_of(
                marked,
                cutting.known,
                lambda rows: _key(rows, cutting.fetch),
                partition_rows=cutting.partition_rows,
            ):
                yield file, first_row, rows
                first_row += len(rows)
            before += first_row

    def _partition(self, file: str, first_row: int, found: list[Row]) -> Partition:
        path = self._folder / f"{len(self.planned):08d}.parquet"
        taken_down = self._cutting.taken_down
        rows = [_without(row, taken_down) for row in found] if taken_down else found
        _write(rows, path)
        texts_path = path.with_suffix(".texts.parquet")
        pq.write_table(text_table(rows), texts_path)
        columns_path = None
        if self._config.keep_columns:
            columns_path = path.with_suffix(".columns.parquet")
            pq.write_table(kept_columns(rows, self._config.keep_columns), columns_path)
        return Partition(
            key=_key(found, self._cutting.fetch),
            file=name_of(file),
            first_row=first_row,
            num_rows=len(rows),
            num_to_fetch=sum(row.reason is None for row in rows),
            plan_path=path,
            texts_path=texts_path,
            texts_key=key_of_texts(found),
            columns_path=columns_path,
            first_uid=rows[0].uid,
        )


def _marked(
    rows: Iterator[Row], before: int, again: Mapping[int, str], refused: Refusals
) -> Iterator[Row]:
    """Give the rows that are not to be fetched their reason; `before` rows stand before them in the table."""
    for place, row in enumerate(rows, start=before):
        if place in again:
            yield replace(row, reason=again[place])
        elif row.reason is None and refused.names_pair(row.uid, row.url):
            yield replace(row, reason=REFUSED)
        else:
            yield row


def _without(row: Row, taken_down: Refusals) -> Row:
    """Return a row with nothing but its uid if it was taken down."""
    if not taken_down.names_pair(row.uid, row.url):
        return row
    kept = tuple(None for _ in row.kept)
    reason = row.reason or REFUSED
    return replace(row, url=None, captions={}, unusable={}, reason=reason, kept=kept)


def _key(rows: list[Row], fetch: Settings) -> str:
    content = [[row.uid, row.url, row.reason, *filter(None, [row.sha256])] for row in rows]
    return digest({**fetch, "rows": content})


def _write(rows: list[Row], path: Path) -> None:
    table = pa.table(
        {
            "uid": [row.uid for row in rows],
            "url": [row.url for row in rows],
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
