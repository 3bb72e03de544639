"""DuckDB as the tool for tables: bounded memory, spilling to a scratch folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

MEMORY_LIMIT = "1GB"
OWN_FUNCTIONS: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
"""Settings of a connection that fetches no extension, whatever function a statement names."""
_FILES_AT_ONCE = 8

ArrowTable = Any
"""A pyarrow.Table; pyarrow has no types."""
ArrowColumn = Any
"""A pyarrow.ChunkedArray."""


def connect(scratch: Path) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB that spills into the scratch folder instead of growing without bound."""
    connection = duckdb.connect(config=OWN_FUNCTIONS)
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    connection.execute("SET temp_directory = $1", [str(scratch)])
    connection.execute("SET preserve_insertion_order = true")
    return connection


def few_at_once(paths: Sequence[Path | str]) -> Iterator[tuple[int, list[str]]]:
    """Yield runs of files, each with the place of its first: DuckDB keeps every file of a query open to its end."""
    for first in range(0, len(paths), _FILES_AT_ONCE):
        yield first, [str(path) for path in paths[first : first + _FILES_AT_ONCE]]


def fill_from_files(
    connection: duckdb.DuckDBPyConnection, table: str, query: str, paths: Sequence[Path]
) -> None:
    """Make a table of what a query says of Parquet files, in their order.

    Args:
        query: of the list `$files`, the first of which is file number `$first`.
    """
    for first, files in few_at_once(paths):
        verb = f"INSERT INTO {table}" if first else f"CREATE TABLE {table} AS"
        parameters = {
            name: v for name, v in {"files": files, "first": first}.items() if f"${name}" in query
        }
        connection.execute(f"{verb} {query}", parameters)


def write_parquet(
    connection: duckdb.DuckDBPyConnection, query: str, path: Path, parameters: dict[str, Any]
) -> None:
    """Write the rows of a query to a Parquet file in the query's order."""
    connection.sql(query, params=parameters).write_parquet(str(path), compression="zstd")


def count_rows(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Count the rows of a Parquet file."""
    return int(
        connection.execute("SELECT count(*) FROM read_parquet($1)", [str(path)]).fetchall()[0][0]
    )
