"""Files of committed stages as views of a DuckDB connection, read by pyarrow: the connection itself reads no file."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow.dataset as ds

from neuclip.stages.committed import committed_file
from neuclip.storage.tables import ArrowTable


def add_file(connection: duckdb.DuckDBPyConnection, view: str, uri: str, name: str) -> None:
    """Make a view of a Parquet file of a committed folder, in place of one of the same name.

    Raises: IntegrityError: if the file is not what was committed.
    """
    add_table(connection, view, dataset_of([committed_file(uri, name)]))


def add_table(connection: duckdb.DuckDBPyConnection, view: str, table: ArrowTable) -> None:
    """Make a view of a table, in place of one of the same name."""
    connection.execute(f"DROP VIEW IF EXISTS {view}")
    connection.register(view, table)


def dataset_of(paths: Sequence[Path]) -> ArrowTable:
    """Return several Parquet files as one table, which is read when it is asked for."""
    return ds.dataset([str(path) for path in paths])
