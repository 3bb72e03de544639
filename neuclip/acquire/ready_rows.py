"""The rows of a ready-made shard: from its table, or from the JSON members of its tar."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.columns import Columns
from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.ready_shards import ReadyShard
from neuclip.acquire.ready_tar import Member, TarMembers
from neuclip.acquire.table import Row, row_of
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import is_uid
from neuclip.storage.cache import local_copy
from neuclip.storage.files import read_bytes

Record = dict[str, Any]

_NEEDED = ("key", "status")
_MAX_TEXT_BYTES = 1 << 20
_BATCH_ROWS = 10_000
_SIZES = ("original_width", "original_height")
_MOST_PX = 1 << 31
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class ReadyRow:
    """A pair of the shard, and what its downloader said of it."""

    pair: Row
    key: str
    is_success: bool
    status: str
    message: str | None
    original_width: int | None
    original_height: int | None
    sha256: str | None
    """Of the bytes that were downloaded, in the downloader's words: those that are stored are others."""


def columns_of_img2dataset(columns: Record, config: AcquireConfig) -> AcquireConfig:
    """Return the recipe's columns by the names that img2dataset gives them: `url`, and `caption` for the alt text."""
    names = {"url_column": "url", "caption_column": "caption"}
    renamed = {
        name: own
        for name, own in names.items()
        if getattr(config, name) not in columns and own in columns
    }
    return config.model_copy(update=renamed)


def table_rows(shard: ReadyShard, config: AcquireConfig) -> Iterator[ReadyRow]:
    """Read the rows of a shard's table, in its order.

    Raises: DataError: if the table cannot be read, lacks a column, or says other numbers than the shard's counts.
    """
    assert shard.table is not None
    count = successes = 0
    known, has_uid = config, False
    for record in _records(shard.table):
        if count == 0:
            known = columns_of_img2dataset(record, config)
            has_uid = _check_table(record, shard.table, known)
        where = f"row {count} of {shard.table}"
        row = _ready_row(record, str(record["key"]), where, known, has_uid=has_uid)
        count += 1
        successes += row.is_success
        yield row
    _check_counts(shard, {"count": count, "successes": successes})


def tar_rows(
    shard: ReadyShard, path: Path, members: TarMembers, config: AcquireConfig
) -> Iterator[ReadyRow]:
    """Read the JSON members of a shard without a table; a sample is a success, since others are not in a tar.

    A key of DataComp's resharder is UID-COPY, which names the pair where its JSON does not.
    """
    with path.open("rb") as file:
        for key in members.every_key():
            record = _json(_read(file.fileno(), members.records.get(key)), members)
            text = _read(file.fileno(), members.texts.get(key)).decode(errors="replace")
            stem = key.rpartition("/")[2].split("-", 1)[0].lower()
            record.setdefault("caption", text or None)
            record = {"uid": stem if is_uid(stem) else None, "url": None} | record
            known = columns_of_img2dataset(record, config)
            record = _only_texts(record, known)
            where = f"member {key}.json of {shard.tar}"
            has_uid = is_uid(str(record[known.uid_column]))
            if not has_uid and record[known.url_column] is None:
                record[known.url_column] = f"{shard.name}.tar/{key}"  # a name of its own
            yield _ready_row({**record, "status": "success"}, key, where, known, has_uid=has_uid)
    _check_counts(shard, {"successes": len(members.images)})


def _records(table: str) -> Iterator[Record]:
    try:
        with pq.ParquetFile(local_copy(table)) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read the table {table} of a shard: {error}") from error


def _check_table(record: Record, uri: str, config: AcquireConfig) -> bool:
    for column in _NEEDED:
        if column not in record:
            raise DataError(
                f"{uri} has no column {column!r}, which img2dataset writes; its columns are {', '.join(record)}. "
                "acquire.adopt takes output of img2dataset and DataComp; fetch other tables with acquire.table"
            )
    return config.uid_column in Columns(config).used(list(record), uri)


def _check_counts(shard: ReadyShard, found: dict[str, int]) -> None:
    """Compare with what the downloader counted.

    Raises: DataError: if it is not the same: img2dataset loses samples without a word over some columns.
    """
    if shard.counts is None:
        return
    try:
        counts = json.loads(read_bytes(shard.counts))
        said = {name: counts[name] for name in found}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{shard.counts} does not hold the counts of a shard: {error!r}") from error
    if said != found:
        raise DataError(
            f"the account of shard {shard.tar} does not add up: its counts say {said}, found {found}"
        )


def _ready_row(
    record: Record, key: str, where: str, config: AcquireConfig, *, has_uid: bool
) -> ReadyRow:
    message = record.get("error_message")
    sha256 = str(record.get("sha256") or "").lower()
    original = [_pixels(record.get(name)) for name in _SIZES]
    return ReadyRow(
        pair=row_of(record, where, config, has_uid=has_uid),
        key=key,
        is_success=record["status"] == "success",
        status=str(record["status"]),
        message=None if message is None else str(message),
        original_width=original[0],
        original_height=original[1],
        sha256=sha256 if len(sha256) == 64 and _DIGITS.issuperset(sha256) else None,
    )


def _pixels(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and 0 < value < _MOST_PX else None


def _read(descriptor: int, member: Member | None) -> bytes:
    if member is None or member.size > _MAX_TEXT_BYTES:
        return b""
    return os.pread(descriptor, member.size, member.offset)


def _json(content: bytes, members: TarMembers) -> Record:
    """Read a JSON member; one that is no object says nothing, which is counted."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        members.problems["samples without readable JSON"] += 1
        return {}
    return cast("Record", record)


def _only_texts(record: Record, config: AcquireConfig) -> Record:
    """Return a record of a stranger with all columns that the recipe names, none of them of a wrong kind."""
    texts = {config.url_column, config.uid_column}
    captions = {config.caption_column, *config.caption_columns.values()}
    checked: Record = {**dict.fromkeys(config.keep_columns), **record}
    for name in texts | captions:
        value = record.get(name)
        is_list = isinstance(value, list) and all(isinstance(text, str) for text in value)  # type: ignore[reportUnknownVariableType]
        is_kept = isinstance(value, str) or (name in captions and is_list)
        checked[name] = value if is_kept else None
    return checked
