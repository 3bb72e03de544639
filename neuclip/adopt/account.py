"""The account of one ready-made shard: every row gets one outcome, and its images stay in the shard's tar."""

import hashlib
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuclip.acquired.adopted_tar import AdoptedTar
from neuclip.acquired.partitions import ROWS
from neuclip.acquired.reasons import reason_of
from neuclip.acquired.refusals import REFUSED, Refusals
from neuclip.acquired.rows import ROWS_SCHEMA, Messages, write_rows
from neuclip.acquired.texts import ALT
from neuclip.adopt.problems import Problems
from neuclip.adopt.rows import MAX_TEXT_BYTES, ReadyRow, read_member, table_rows, tar_rows
from neuclip.adopt.shards import ReadyShard
from neuclip.adopt.tar import Member, TarMembers, check_image, read_members
from neuclip.foundation.text import printable
from neuclip.stages.ledger import Ledger
from neuclip.storage.files import get_file
from neuclip.storage.tables import ArrowTable
from neuclip.storage.uris import is_local, local_part
from neuclip.table.config import SourceConfig
from neuclip.table.rows import TEXT_CHARACTERS
from neuclip.table.texts import text_table

_DETAIL_CHARACTERS = 200

Record = dict[str, Any]


@dataclass(frozen=True)
class ShardAccount:
    """What became of a shard's rows, and what is wrong with it that no row tells."""

    ledger: Ledger
    messages: Messages
    problems: dict[str, int]
    names: dict[str, list[str]]
    """The first names of each problem that has any."""
    tar: AdoptedTar
    texts: ArrowTable
    """The texts of the rows, of TEXTS_SCHEMA."""


def account_for(
    shard: ReadyShard,
    config: SourceConfig,
    *,
    folder: Path,
    scratch: Path,
    taken_down: Refusals | None = None,
) -> ShardAccount:
    """Verify a shard and write the outcome of its every row to rows.parquet.

    A success whose image is not in the tar, or has no sound header, is a failed row with its reason; images are not
    decoded. `width` and `height` are read from the images.

    Args:
        taken_down: pairs that keep nothing but their uid.
    Raises: DataError: if its table lacks a column that the recipe names.
    """
    with _here(shard.tar, scratch) as path, path.open("rb") as tar:
        members = read_members(path)
        found = _trained_rows(shard, path, members, tar.fileno(), config)
        lists = taken_down or Refusals()
        rows = [_outcome(row, members, tar.fileno(), lists) for row in found]
        named = {row["member"] for row in rows if row["member"]}
        for image in members.images.values():
            if image.name not in named:
                members.problems.note("images that no successful row names", image.name)
        tar.seek(0)
        record = AdoptedTar(
            uri=shard.tar,
            size_bytes=path.stat().st_size,
            stamp=shard.stamp,
            sha256=hashlib.file_digest(tar, "sha256").hexdigest(),
        )
    ledger, messages = write_rows(rows, folder / ROWS)
    problems = members.problems
    return ShardAccount(
        ledger, messages, dict(problems), problems.named(), record, _texts(found, lists)
    )


def read_texts(
    shard: ReadyShard, config: SourceConfig, *, scratch: Path, taken_down: Refusals
) -> ArrowTable:
    """Read the texts of a shard alone, of TEXTS_SCHEMA, row by row beside its account.

    Raises: DataError: as `account_for`.
    """
    with _here(shard.tar, scratch) as path, path.open("rb") as tar:
        found = _trained_rows(shard, path, read_members(path), tar.fileno(), config)
    return _texts(found, taken_down)


def read_pairs(shard: ReadyShard, config: SourceConfig, *, scratch: Path) -> list[ReadyRow]:
    """Read the rows of a shard alone.

    Raises: DataError: as `account_for`.
    """
    if shard.table is not None:
        return list(table_rows(shard, config, Problems()))
    with _here(shard.tar, scratch) as path:
        return list(tar_rows(shard, path, read_members(path), config))


@contextmanager
def _here(uri: str, scratch: Path) -> Generator[Path]:
    """Give a local path of a tar; one from object storage goes again, so that the disk never holds more than one."""
    if is_local(uri):
        yield local_part(uri)
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder, "images.tar")
        get_file(uri, path)
        yield path


def _trained_rows(
    shard: ReadyShard, path: Path, members: TarMembers, descriptor: int, config: SourceConfig
) -> list[ReadyRow]:
    rows = _rows(shard, path, members, config)
    return [_as_trained(row, members, descriptor, config) for row in rows]


def _texts(rows: list[ReadyRow], taken_down: Refusals) -> ArrowTable:
    """Return the texts of all rows, none of those that were taken down."""
    return text_table(
        replace(row.pair, captions={}, unusable={})
        if taken_down.names_pair(row.pair.uid, row.pair.url)
        else row.pair
        for row in rows
    )


def _rows(
    shard: ReadyShard, path: Path, members: TarMembers, config: SourceConfig
) -> Iterator[ReadyRow]:
    if shard.table is None:
        return tar_rows(shard, path, members, config)
    return table_rows(shard, config, members.problems)


def _as_trained(
    row: ReadyRow, members: TarMembers, descriptor: int, config: SourceConfig
) -> ReadyRow:
    """Return a row with the alt text that open_clip's trainer would take: that of the .txt member."""
    if not row.is_success:
        return row
    problems, key = members.problems, row.key or ""
    member = members.texts.get(key) if config.adopted_caption == "txt" else None
    if member is None:
        if config.adopted_caption == "txt" and key in members.images:
            problems.note("captions of the table or JSON, for there is no .txt", key)
        return row
    captions = {name: texts for name, texts in row.pair.captions.items() if name != ALT}
    unusable = {name: count for name, count in row.pair.unusable.items() if name != ALT}
    text, why = _text(member, descriptor)
    if why:
        problems.note(f"captions that cannot be used: .txt {why}", key)
        return replace(row, pair=replace(row.pair, captions=captions, unusable=unusable | {ALT: 1}))
    if text != "".join(row.pair.captions.get(ALT, [""])[:1]).strip():
        problems.note("captions of .txt and table or JSON that differ; the .txt is taken", key)
    alt = {ALT: [text]} if text else {}
    return replace(row, pair=replace(row.pair, captions=alt | captions, unusable=unusable))


def _text(member: Member, descriptor: int) -> tuple[str, str]:
    """Return a text, and why it cannot be read, empty if it can."""
    if member.size > MAX_TEXT_BYTES:
        return "", f"of more than {MAX_TEXT_BYTES} bytes"
    try:
        text = read_member(descriptor, member).decode("utf-8").strip()
    except UnicodeDecodeError:
        return "", "that is not UTF-8"
    if len(text) > TEXT_CHARACTERS:
        return "", f"of more than {TEXT_CHARACTERS} characters"
    return text, ""


def _outcome(row: ReadyRow, members: TarMembers, descriptor: int, taken_down: Refusals) -> Record:
    nothing: Record = dict.fromkeys(ROWS_SCHEMA.names)
    outcome: Record = {**nothing, "uid": row.pair.uid, "status": "failed"}
    if taken_down.names_pair(row.pair.uid, row.pair.url):
        return {**outcome, "reason": REFUSED}
    outcome["url"] = row.pair.url
    if not row.is_success:
        reason = row.pair.reason or reason_of(row.status, row.message)
        return {**outcome, "reason": reason, "detail": (row.message or "")[:_DETAIL_CHARACTERS]}
    image = None if row.key is None else members.images.get(row.key)
    if image is None:
        why = members.refused.get(row.key or "", "there is none of this key")
        detail = f"{'no key' if row.key is None else printable(row.key)} in the tar: {why}"
        return {**outcome, "reason": "missing_image", "detail": detail[:_DETAIL_CHARACTERS]}
    match check_image(os.pread(descriptor, image.size, image.offset)):
        case str(reason), detail:
            return {**outcome, "reason": reason, "detail": printable(detail)}
        case width, height:
            return {
                **outcome,
                "status": "success",
                "width": width,
                "height": height,
                "original_width": row.original_width,
                "original_height": row.original_height,
                "sha256": row.sha256,
                "member": image.name,
                "offset": image.offset,
                "size": image.size,
            }
