"""The URL table as rows: each value of Parquet, CSV, TSV or JSON lines checked.

A row that cannot be fetched keeps its place and gets a reason; a table that contradicts itself is an error.
"""

import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.columns import Columns, is_web_address
from neuclip.acquire.config import DELIMITED_SUFFIXES, TABLE_SUFFIXES, AcquireConfig
from neuclip.acquire.delimited import read_delimited
from neuclip.acquire.json_lines import read_json_lines
from neuclip.acquire.parquet_rows import read_parquet
from neuclip.acquire.text_lines import unreadable
from neuclip.acquired.texts import ALT
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import UID_LENGTH, is_uid, uid_of
from neuclip.foundation.plain_yaml import said_of
from neuclip.storage.cache import local_copy
from neuclip.storage.files import exists, expand, list_files

log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_URL_CHARACTERS = 8_000
"""What servers take at most; the guard takes twelve times that, percent-encoded."""
TEXT_CHARACTERS = 100_000
"""Of a caption; what is longer is no caption, and a few bytes of a compressed table can repeat it without end."""
_NO_TEXT = re.compile("[\ud800-\udfff]")
"""What a byte that is not UTF-8 is read as, and half a character that JSON may hold."""
_SHOWN = 5

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of the table; `reason` says why it is not fetched, None if it is."""

    uid: str
    url: str | None
    captions: dict[str, list[str]]
    """Source -> its texts that can be used."""
    reason: str | None
    sha256: str | None = None
    """Hex digest that the downloaded bytes must have, None if the table does not say."""
    kept: tuple[Any, ...] = ()
    """Values of the columns that are kept."""
    unusable: dict[str, int] = field(default_factory=dict[str, int])
    """Source -> how many of its texts are endless or no UTF-8."""
    is_derived: bool = False
    """The uid is the hash of URL and caption, so a row with the same uid is the same row."""

    @property
    def characters(self) -> int:
        """How much text the row holds."""
        texts = [text for texts in self.captions.values() for text in texts]
        texts += [value for value in self.kept if isinstance(value, str)]
        return sum(map(len, texts)) + len(self.url or "")


def table_files(uri: str) -> list[str]:
    """Return the files of a table in name order.

    Raises: DataError: if there is none.
    """
    files = [file for file in expand(uri, TABLE_SUFFIXES) if exists(file)]
    if not files:
        raise DataError(
            f"expected a URL table ({', '.join(TABLE_SUFFIXES)}) or a folder of them at {uri}, found none; "
            "set acquire.table to where the table is"
        )
    if not uri.endswith(TABLE_SUFFIXES):
        others = [name for name in list_files(uri) if not name.endswith(TABLE_SUFFIXES)]
        if others:
            shown = ", ".join(others[:_SHOWN]) + ", ..." * (len(others) > _SHOWN)
            log.warning(
                "%d files in %s are no URL tables and are not read: %s", len(others), uri, shown
            )
    return files


def read_rows(uri: str, config: AcquireConfig) -> Iterator[Row]:
    """Read one file of the table, row by row, in bounded memory.

    Either every row of a file brings its uid, or none does and it is derived.

    Raises: DataError: if it cannot be read, lacks a column, or a value is not what its column should hold.
    """
    first: tuple[str, bool] | None = None
    try:
        for where, record in _records(local_copy(uri), uri, config):
            has_uid = config.uid_column in record
            first = first or (where, has_uid)
            if has_uid != first[1]:
                raise DataError(
                    f"{where} has {'a' if has_uid else 'no'} {config.uid_column!r}, unlike {first[0]}; expected one in "
                    "every row of a file or in none: give every row its uid, or take all out to have them derived from "
                    "url and caption"
                )
            yield row_of(record, where, config, has_uid=has_uid)
    except (pa.ArrowException, OSError, EOFError, zlib.error, MemoryError) as error:
        raise unreadable(
            uri,
            str(error) or type(error).__name__,
            f"expected a readable {Path(uri).suffix} file, write it again or take it out of acquire.table",
        ) from error


def _records(path: Path, uri: str, config: AcquireConfig) -> Iterator[tuple[str, Record]]:
    columns = Columns(config)
    if uri.endswith(DELIMITED_SUFFIXES):
        return read_delimited(path, uri, columns, config.columns)
    if config.columns is not None:
        raise DataError(
            f"acquire.columns names the columns of CSV and TSV files without a header line, and {uri} has names of its "
            "own; leave acquire.columns out"
        )
    if uri.endswith(".parquet"):
        return read_parquet(path, uri, columns)
    return read_json_lines(path, uri, columns)


def kept_columns(rows: list[Row], names: list[str]) -> Any:  # noqa: ANN401  # pyarrow has no types
    """Return the columns that are kept of consecutive rows, `uid` first.

    Raises: DataError: if a column holds values of kinds that no one type can hold.
    """
    columns: dict[str, Any] = {"uid": [row.uid for row in rows]}
    for place, name in enumerate(names):
        try:
            columns[name] = pa.array([row.kept[place] for row in rows])
        except pa.ArrowException as error:
            raise DataError(
                f"column {name!r} of the URL table cannot be kept: {error}; write it with one type or take it out of "
                "acquire.keep_columns"
            ) from error
    return pa.table(columns)


def settle_types(paths: list[Path]) -> None:
    """Give the kept columns of all partitions the same types, as far as the rows of each left them open.

    Raises: DataError: if a column holds values of kinds that no one type can hold.
    """
    schemas = [pq.read_schema(path) for path in paths]
    try:
        settled = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"a column that acquire.keep_columns names has one type in some rows of the URL table, another in others: "
            f"{error}; write it with one type or take it out of acquire.keep_columns"
        ) from error
    for path, schema in zip(paths, schemas, strict=True):
        if schema != settled:
            pq.write_table(pq.read_table(path).cast(settled), path)


def row_of(record: Record, where: str, config: AcquireConfig, *, has_uid: bool) -> Row:
    """Read one record as a pair; what is no UTF-8 text, or is endless, costs that text, not the row.

    Raises: DataError: if a value is not what its column should hold.
    """
    url = _url(record.get(config.url_column), where, config)
    columns = {ALT: config.caption_column, **config.caption_columns}
    found = {
        source: texts
        for source, column in columns.items()
        if (texts := _texts(record.get(column), where, column))
    }
    if has_uid:
        uid = _uid(record.get(config.uid_column), where, config)
    else:
        alt = found.get(ALT, [""])[0][:TEXT_CHARACTERS]
        uid = uid_of(_mended(url) or "", _mended(alt))
    captions, unusable = usable_texts(found)
    return Row(
        uid=uid,
        url=url and _mended(url)[:_URL_CHARACTERS],
        captions=captions,
        reason=_reason(url),
        sha256=_sha256(record.get(config.sha256_column), where, config),
        kept=tuple(_mended(record.get(column)) for column in config.keep_columns),
        unusable=unusable,
        is_derived=not has_uid,
    )


def usable_texts(found: Mapping[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the texts of each source that can be used, and how many of each cannot."""
    usable = {source: list(filter(_is_usable, texts)) for source, texts in found.items()}
    lost = {source: len(found[source]) - len(texts) for source, texts in usable.items()}
    return (
        {source: texts for source, texts in usable.items() if texts},
        {source: count for source, count in lost.items() if count},
    )


def _is_usable(text: str) -> bool:
    return len(text) <= TEXT_CHARACTERS and not _NO_TEXT.search(text)


def _url(value: object, where: str, config: AcquireConfig) -> str | None:
    if _is_missing(value):
        return None
    if not isinstance(value, str):
        raise DataError(
            f"column {config.url_column!r} of {where} holds {said_of(value)}, expected a URL as text"
        )
    return value.strip() or None


def _reason(url: str | None) -> str | None:
    if url is None:
        return "no_url"
    if not is_web_address(url):
        return "bad_scheme"
    is_bad = len(url) > _URL_CHARACTERS or "\0" in url or _NO_TEXT.search(url)
    return "bad_url" if is_bad else None


def _is_missing(value: object) -> bool:
    """Tell whether a value is null, or what some writers put for it."""
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124  # not a number


def _mended(value: Any) -> Any:  # noqa: ANN401
    """Put the sign for unreadable characters where there was no text."""
    if isinstance(value, str):
        return _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", value) if _NO_TEXT.search(value) else value
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {name: _mended(each) for name, each in value.items()}
    return value


def _uid(value: object, where: str, config: AcquireConfig) -> str:
    uid = str(value).strip().lower()
    if not is_uid(uid):
        raise DataError(
            f"column {config.uid_column!r} of {where} holds {said_of(value)}, expected {UID_LENGTH} hex digits; "
            "take the column out of the table to have uids derived from url and caption"
        )
    return uid


def _sha256(value: object, where: str, config: AcquireConfig) -> str | None:
    if _is_missing(value) or value == "":
        return None
    if not isinstance(value, str) or not _SHA256.fullmatch(value.strip()):
        raise DataError(
            f"column {config.sha256_column!r} of {where} holds {said_of(value)}, expected 64 hex digits or nothing; "
            "set acquire.sha256_column to the column with the hashes, or to a name that the table does not have"
        )
    return value.strip().lower()


def _texts(value: object, where: str, column: str) -> list[str]:
    """Return the texts of a caption column: one text or a list; nulls and blank texts are left out."""
    values: list[Any] = value if isinstance(value, list) else [value]
    values = [text for text in values if not _is_missing(text)]
    for text in values:
        if not isinstance(text, str):
            raise DataError(
                f"column {column!r} of {where} holds {said_of(text)}, expected a text or a list of texts"
            )
    return [text for text in values if text and text.strip()]
