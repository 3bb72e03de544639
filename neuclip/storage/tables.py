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
