"""The URL table as rows: read in batches from Parquet, CSV, TSV or JSON lines, each value checked.

A row that cannot be fetched keeps its place and gets a reason; a table that contradicts itself is an error.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from neuclip.acquire.config import TABLE_SUFFIXES, AcquireConfig
from neuclip.foundation.errors import DataError, nearest
from neuclip.foundation.ids import UID_LENGTH, is_uid, uid_of
from neuclip.storage.cache import local_copy
from neuclip.storage.files import exists, expand

ALT = "alt"
"""The caption source that `caption_column` becomes."""

_DEFAULT_UID_COLUMN, _DEFAULT_SHA256_COLUMN = "uid", "sha256"
_BATCH_ROWS = 10_000
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_WEB_SCHEMES = ("http://", "https://")
_URL_CHARACTERS = 8_000
"""What servers take at most; the guard takes twelve times that, percent-encoded."""
_NOT_UTF_8 = re.compile("[\ud800-\udfff]")
"""What a byte that is not UTF-8 is read as, and half a character that JSON may hold."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of the table; `reason` says why it is not fetched, None if it is."""

    uid: str
    url: str | None
    captions: dict[str, list[str]]
    reason: str | None
    sha256: str | None = None
    """Hex digest that the downloaded bytes must have, None if the table does not say."""
    kept: tuple[Any, ...] = ()
    """Values of the columns that are kept."""


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
    return files


def read_rows(uri: str, config: AcquireConfig) -> Iterator[Row]:
    """Read one file of the table, row by row.

    Raises: DataError: if it cannot be read, lacks a column, or a value is not what its column should hold.
    """
    try:
        records = _records(local_copy(uri))
        first = next(records, None)
        if first is None:
            return
        has_uid = check_columns(first, uri, config)
        for number, record in enumerate(_chain(first, records)):
            yield row_of(record, f"row {number} of {uri}", config, has_uid=has_uid)
    except (pa.ArrowException, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"cannot read the URL table {uri}: {error}; "
            f"expected a readable {Path(uri).suffix} file, write it again or take it out of acquire.table"
        ) from error


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


def _records(path: Path) -> Iterator[Record]:
    if path.suffix == ".jsonl":
        yield from _json_records(path)
        return
    if path.suffix == ".parquet":
        batches: Iterable[Any] = pq.ParquetFile(path).iter_batches(_BATCH_ROWS)
    else:
        batches = _csv_batches(path)
    for batch in batches:
        yield from _records_of(batch)


def _records_of(batch: Any) -> list[Record]:  # noqa: ANN401  # pyarrow has no types
    """Return the rows of a batch; bytes that are not UTF-8 become lone surrogates, which row_of looks for."""
    try:
        records = batch.to_pylist()
    except UnicodeDecodeError:
        columns = {name: batch.column(name) for name in batch.schema.names}
        raw = {name: _as_bytes(column) for name, column in columns.items()}
        return [_decoded(record) for record in pa.RecordBatch.from_pydict(raw).to_pylist()]
    has_bytes = any("binary" in str(kind) for kind in batch.schema.types)
    return [_decoded(record) for record in records] if has_bytes else records


def _as_bytes(column: Any) -> Any:  # noqa: ANN401
    """Return a column of texts, or of lists of texts, as one of bytes; others as they are."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.binary())
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return column.cast(pa.list_(pa.binary()))
    return column


def _decoded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if isinstance(value, dict):
        return {name: _decoded(each) for name, each in value.items()}
    return value


def _csv_batches(path: Path) -> Iterable[Any]:
    """Read every column as bytes: a uid of digits only must not become a number, nor one bad byte end the file."""
    parse = pa_csv.ParseOptions(
        delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True
    )
    with pa_csv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    convert = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()))
    return pa_csv.open_csv(path, parse_options=parse, convert_options=convert)


def _json_records(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise DataError(
                        f"line {number} of {path} holds {line[:40].strip()!r}, expected one JSON object a line"
                    )
                yield record


def _chain(first: Record, rest: Iterator[Record]) -> Iterator[Record]:
    yield first
    yield from rest


def check_columns(record: Record, uri: str, config: AcquireConfig) -> bool:
    """Tell whether a file, of which one record is given, brings its own uids.

    Raises: DataError: if it lacks a column that the recipe names.
    """
    required = {"url_column": config.url_column, "caption_column": config.caption_column}
    required |= {f"caption_columns.{name}": col for name, col in config.caption_columns.items()}
    if config.uid_column != _DEFAULT_UID_COLUMN:
        required["uid_column"] = config.uid_column
    if config.sha256_column != _DEFAULT_SHA256_COLUMN:
        required["sha256_column"] = config.sha256_column
    required |= {f"keep_columns.{place}": col for place, col in enumerate(config.keep_columns)}
    for field, column in required.items():
        if column not in record:
            raise DataError(
                f"{uri} has no column {column!r}; its columns are {', '.join(record)}."
                f"{nearest(column, record)} Set acquire.{field} to one of them"
            )
    return config.uid_column in record


def row_of(record: Record, where: str, config: AcquireConfig, *, has_uid: bool) -> Row:
    """Read one record as a pair; what is not UTF-8 costs that row, not the table.

    Raises: DataError: if a value is not what its column should hold.
    """
    url = _url(record.get(config.url_column), where, config)
    columns = {ALT: config.caption_column, **config.caption_columns}
    captions = {
        source: texts
        for source, column in columns.items()
        if (texts := _texts(record.get(column), where, column))
    }
    reason = _reason(url, captions)
    url, captions = _mended(url), _mended(captions)
    if has_uid:
        uid = _uid(record.get(config.uid_column), where, config)
    else:
        uid = uid_of(url or "", captions.get(ALT, [""])[0])
    kept = tuple(_mended(record[column]) for column in config.keep_columns)
    sha256 = _sha256(record.get(config.sha256_column), where, config)
    return Row(uid, url, captions, reason, sha256, kept)


def _url(value: object, where: str, config: AcquireConfig) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"column {config.url_column!r} of {where} holds {value!r}, expected a URL as text"
        )
    return value.strip() or None if value else None


def _reason(url: str | None, captions: dict[str, list[str]]) -> str | None:
    if url is None:
        return "no_url"
    if not url.lower().startswith(_WEB_SCHEMES):
        return "bad_scheme"
    if len(url) > _URL_CHARACTERS or _NOT_UTF_8.search(url):
        return "bad_url"
    is_broken = any(_NOT_UTF_8.search(text) for texts in captions.values() for text in texts)
    return "bad_text" if is_broken else None


def _mended(value: Any) -> Any:  # noqa: ANN401
    """Put the sign for unreadable characters where the bytes were none."""
    if isinstance(value, str):
        return _NOT_UTF_8.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {name: _mended(each) for name, each in value.items()}
    return value


def _uid(value: object, where: str, config: AcquireConfig) -> str:
    uid = str(value).strip().lower()
    if not is_uid(uid):
        raise DataError(
            f"column {config.uid_column!r} of {where} holds {value!r}, expected {UID_LENGTH} hex digits; "
            "take the column out of the table to have uids derived from url and caption"
        )
    return uid


def _sha256(value: object, where: str, config: AcquireConfig) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _SHA256.fullmatch(value.strip()):
        raise DataError(
            f"column {config.sha256_column!r} of {where} holds {value!r}, expected 64 hex digits or nothing; "
            "set acquire.sha256_column to the column with the hashes, or to a name that the table does not have"
        )
    return value.strip().lower()


def _texts(value: object, where: str, column: str) -> list[str]:
    """Return the texts of a caption column: one text or a list; nulls and blank texts are left out."""
    values: list[Any] = value if isinstance(value, list) else [value]
    for text in values:
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"column {column!r} of {where} holds {text!r}, expected a text or a list of texts"
            )
    return [text for text in values if text and text.strip()]
