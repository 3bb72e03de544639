"""The rows of a ready-made shard: from its table, or from the JSON members of its tar.

What is wrong with one row costs that row or one value of it; what the shard says it has and is not there is a row too.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from neuclip.acquired.texts import ALT
from neuclip.adopt.counts import lacking, said_of
from neuclip.adopt.problems import Problems
from neuclip.adopt.shards import ReadyShard
from neuclip.adopt.table import UnreadableTableError, table_records
from neuclip.adopt.tar import Member, TarMembers
from neuclip.foundation.ids import is_uid, uid_of
from neuclip.foundation.text import printable
from neuclip.table.columns import columns_of
from neuclip.table.config import SourceConfig
from neuclip.table.rows import Row, row_of

Record = dict[str, Any]

MAX_TEXT_BYTES = 1 << 20
"""Most bytes of a text or JSON member that is read."""
_SIZES = ("original_width", "original_height")
_MOST_PX = 1 << 31
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class ReadyRow:
    """A pair of the shard, and what its downloader said of it."""

    pair: Row
    key: str | None
    is_success: bool
    status: str
    message: str | None
    original_width: int | None = None
    original_height: int | None = None
    sha256: str | None = None
    """Of the bytes that were downloaded, in the downloader's words: those that are stored are others."""


def columns_of_img2dataset(columns: Record, config: SourceConfig) -> SourceConfig:
    """Return the recipe's columns by the names that img2dataset gives them: `url`, and `caption` for the alt text."""
    names = {"url_column": "url", "caption_column": "caption"}
    renamed = {
        name: own
        for name, own in names.items()
        if getattr(config, name) not in columns and own in columns
    }
    return config.model_copy(update=renamed)


def table_rows(shard: ReadyShard, config: SourceConfig, problems: Problems) -> Iterator[ReadyRow]:
    """Read the rows of a shard's table, in its order, and then one for each that its counts have and it has not.

    Args:
        problems: gets what is wrong with the shard.
    Raises: DataError: if the table lacks a column that the recipe names.
    """
    assert shard.table is not None
    said = said_of(shard, ("count", "successes"), problems)
    count = successes = 0
    known, has_uid, why = config, False, ""
    try:
        for record in table_records(shard.table):
            if count == 0:
                known = columns_of_img2dataset(record, config)
                has_uid = known.uid_column in columns_of(known).used(list(record), shard.table)
            key = record["key"]
            row = _row(
                record, None if key is None else str(key), count, shard, known, problems, has_uid
            )
            count += 1
            successes += row.is_success
            yield row
    except UnreadableTableError as error:
        why = str(error)
        problems.note("the table cannot be read to its end", why)
    found = {"count": count, "successes": successes}
    missing = lacking(said, found, problems)
    if why:
        missing = max(1, missing)
    reason = "unreadable_shard" if why else "missing_row"
    yield from _placeholders(
        missing, reason, why or f"its counts say {said}, found {found}", shard, config
    )


def tar_rows(
    shard: ReadyShard, path: Path, members: TarMembers, config: SourceConfig
) -> Iterator[ReadyRow]:
    """Read the JSON members of a shard without a table; a sample is a success, since others are not in a tar.

    A key of DataComp's resharder is UID-COPY, which names the pair where its JSON does not.
    """
    problems = members.problems
    said = said_of(shard, ("successes",), problems)
    keys = members.every_key()
    with path.open("rb") as file:
        for number, key in enumerate(keys):
            record = _json(read_member(file.fileno(), members.records.get(key)), problems, key)
            text = read_member(file.fileno(), members.texts.get(key)).decode(errors="replace")
            stem = key.rpartition("/")[2].split("-", 1)[0].lower()
            if record.get("caption") is None:
                record["caption"] = text or None
            record = {"uid": stem if is_uid(stem) else None, "url": None} | record
            known = columns_of_img2dataset(record, config)
            record = {**dict.fromkeys(config.keep_columns), **record, "status": "success"}
            yield _row(record, key, number, shard, known, problems, has_uid=True)
    found = {"successes": len(keys)}
    missing = lacking(said, found, problems)
    if members.damage and not missing:
        yield from _placeholders(1, "unreadable_shard", members.damage, shard, config)
    yield from _placeholders(
        missing, "missing_row", f"its counts say {said}, found {found}", shard, config
    )


def read_member(descriptor: int, member: Member | None) -> bytes:
    """Read a text or JSON member; nothing if there is none or it is too large for one."""
    if member is None or member.size > MAX_TEXT_BYTES:
        return b""
    return os.pread(descriptor, member.size, member.offset)


def _row(
    record: Record,
    key: str | None,
    number: int,
    shard: ReadyShard,
    config: SourceConfig,
    problems: Problems,
    has_uid: bool,  # noqa: FBT001
) -> ReadyRow:
    """Read one record as a pair; a value that is not what it should be is none."""
    name = f"{shard.name}.tar/{key if key is not None else f'row {number}'}"
    checked = _only_texts(record, config, problems, name)
    uid = str(checked.get(config.uid_column)).strip().lower()
    is_named = has_uid and is_uid(uid)
    if has_uid and not is_named and checked.get(config.uid_column) is not None:
        problems.note("uids that are not 32 hex digits; derived instead", name)
    pair = row_of({**checked, config.sha256_column: None}, name, config, has_uid=is_named)
    if not is_named and pair.url is None:  # a name of its own, where it has no address
        pair = replace(pair, uid=uid_of(printable(name), pair.captions.get(ALT, [""])[0]))
    message = record.get("error_message")
    sha256 = str(record.get("sha256") or "").lower()
    original = [_pixels(record.get(name)) for name in _SIZES]
    return ReadyRow(
        pair=pair,
        key=key,
        is_success=record["status"] == "success",
        status=str(record["status"]),
        message=None if message is None else printable(str(message)),
        original_width=original[0],
        original_height=original[1],
        sha256=sha256 if len(sha256) == 64 and _DIGITS.issuperset(sha256) else None,
    )


def _placeholders(
    count: int, reason: str, why: str, shard: ReadyShard, config: SourceConfig
) -> Iterator[ReadyRow]:
    """Yield rows that stand for those that are not there."""
    for number in range(count):
        uid = uid_of(f"{shard.name}.tar/{reason} {number}", "")
        kept = (None,) * len(config.keep_columns)
        pair = Row(uid, None, {}, reason, kept=kept)
        yield ReadyRow(pair, None, is_success=False, status="failed", message=printable(why))


def _pixels(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and 0 < value < _MOST_PX else None


def _json(content: bytes, problems: Problems, key: str) -> Record:
    """Read a JSON member; one that is no object says nothing, which is counted."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        problems.note("samples without readable JSON", key)
        return {}
    return cast("Record", record)


def _only_texts(record: Record, config: SourceConfig, problems: Problems, name: str) -> Record:
    """Return an untrusted record with all columns that the recipe names, none of them of a wrong kind."""
    captions = {config.caption_column, *config.caption_columns.values()}
    checked: Record = dict(record)
    for column in {config.url_column, config.uid_column} | captions:
        value = record.get(column)
        if isinstance(value, list) and column in captions:
            texts = [text for text in cast("list[object]", value) if isinstance(text, str)]
            is_whole, checked[column] = len(texts) == len(value), texts
        else:
            is_whole = value is None or isinstance(value, str)
            checked[column] = value if isinstance(value, str) else None
        if not is_whole:
            problems.note(f"values of {column!r} that are no text", name)
    return checked
