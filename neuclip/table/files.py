"""The files of a table, read row by row: Parquet, CSV, TSV or JSON lines."""

import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from neuclip.foundation.errors import DataError
from neuclip.storage.cache import local_copy
from neuclip.storage.files import exists, expand, list_files
from neuclip.table.columns import Columns, columns_of
from neuclip.table.config import DELIMITED_SUFFIXES, TABLE_SUFFIXES, SourceConfig
from neuclip.table.delimited import read_delimited
from neuclip.table.json_lines import read_json_lines
from neuclip.table.parquet_rows import read_parquet
from neuclip.table.rows import Record, Row, row_of
from neuclip.table.text_lines import unreadable

log = logging.getLogger(__name__)

_SHOWN = 5


def table_files(uri: str, *, setting: str = "acquire.table") -> list[str]:
    """Return the files of a table in name order.

    Args:
        setting: of the recipe that names the table.
    Raises: DataError: if there is none.
    """
    files = [file for file in expand(uri, TABLE_SUFFIXES) if exists(file)]
    if not files:
        raise DataError(
            f"expected a table ({', '.join(TABLE_SUFFIXES)}) or a folder of them at {uri}, found none; "
            f"set {setting} to where the table is"
        )
    if not uri.endswith(TABLE_SUFFIXES):
        others = [name for name in list_files(uri) if not name.endswith(TABLE_SUFFIXES)]
        if others:
            shown = ", ".join(others[:_SHOWN]) + ", ..." * (len(others) > _SHOWN)
            log.warning(
                "%d files in %s are no tables and are not read: %s", len(others), uri, shown
            )
    return files


def read_rows(uri: str, config: SourceConfig) -> Iterator[Row]:
    """Read one file of the table, row by row, in bounded memory.

    Either every row of a file brings its uid, or none does and it is derived.

    Raises: DataError: if it cannot be read, lacks a column, or a value is not what its column should hold.
    """
    first: tuple[str, bool] | None = None
    for where, record in read_records(uri, columns_of(config), config.columns):
        has_uid = config.uid_column in record
        first = first or (where, has_uid)
        if has_uid != first[1]:
            raise DataError(
                f"{where} has {'a' if has_uid else 'no'} {config.uid_column!r}, unlike {first[0]}; expected one in "
                "every row of a file or in none: give every row its uid, or take all out to have them derived from url "
                "and caption"
            )
        yield row_of(record, where, config, has_uid=has_uid)


def read_records(
    uri: str, columns: Columns, names: Sequence[str] | None
) -> Iterator[tuple[str, Record]]:
    """Yield of every row of one file where it stands, and its values in the columns that are used.

    Args:
        names: of the columns of a CSV or TSV file without a header line.
    Raises: DataError: if it cannot be read, or lacks a column.
    """
    try:
        yield from _records(local_copy(uri), uri, columns, names)
    except (pa.ArrowException, OSError, EOFError, zlib.error, MemoryError) as error:
        raise unreadable(
            uri,
            str(error) or type(error).__name__,
            f"expected a readable {Path(uri).suffix} file, write it again or take it out",
        ) from error


def _records(
    path: Path, uri: str, columns: Columns, names: Sequence[str] | None
) -> Iterator[tuple[str, Record]]:
    if uri.endswith(DELIMITED_SUFFIXES):
        return read_delimited(path, uri, columns, names)
    if names is not None:
        raise DataError(
            f"{columns.section}.columns names the columns of CSV and TSV files without a header line, and {uri} has "
            f"names of its own; leave {columns.section}.columns out"
        )
    if uri.endswith(".parquet"):
        return read_parquet(path, uri, columns)
    return read_json_lines(path, uri, columns)
