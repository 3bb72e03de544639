"""DuckDB as the tool for tables: bounded memory, spilling to a scratch folder."""

from pathlib import Path
from typing import Any

import duckdb

MEMORY_LIMIT = "1GB"

ArrowTable = Any
"""A pyarrow.Table; pyarrow has no types."""
ArrowColumn = Any
"""A pyarrow.ChunkedArray."""


def connect(scratch: Path) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB that spills into the scratch folder instead of growing without bound."""
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    connection.execute("SET temp_directory = $1", [str(scratch)])
    connection.execute("SET preserve_insertion_order = true")
    return connection


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
