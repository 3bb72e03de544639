"""What the stages tell of one pair: each has a function that looks it up in the stage's committed folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from neuclip.storage.tables import few_at_once
from neuclip.storage.values import plain

Facts = dict[str, Any]
"""JSON values by name."""
Told = tuple[Facts, str]
"""Facts, and why the story of the pair ends at this stage; empty if it goes on."""
OF_FILES = "FROM read_parquet($files, filename = true, file_row_number = true)"


@dataclass
class Pair:
    """A pair that is looked up, stage by stage.

    Args:
        source: what the recipe reads its pairs from, for messages.
        known: what a stage found out that later ones look for, such as `partition` and `sample_id`.
    """

    uid: str
    root: str
    source: str
    connection: duckdb.DuckDBPyConnection
    known: dict[str, Any] = field(default_factory=dict[str, Any])

    def one(self, query: str, path: Path, **parameters: Any) -> Facts | None:  # noqa: ANN401  # what DuckDB takes
        """Return the first row that a query finds in a file, $path; $uid is the pair's."""
        rows = self.rows(query, path=str(path), **parameters)
        return rows[0] if rows else None

    def in_files(self, query: str, paths: Sequence[str], **parameters: str) -> list[Facts]:
        """Return what a query finds in many files, $files, a few after the other."""
        return [
            row
            for _, files in few_at_once(paths)
            for row in self.rows(query, files=files, **parameters)
        ]

    def rows(self, query: str, **parameters: Any) -> list[Facts]:  # noqa: ANN401  # what DuckDB takes
        """Return the rows of a query; $uid is the pair's."""
        if "$uid" in query:
            parameters["uid"] = self.uid
        return records(self.connection, query, parameters)


def records(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any] | list[Any]
) -> list[Facts]:
    """Return the rows of a query as JSON values by column."""
    cursor = connection.execute(query, parameters)
    names = [str(column[0]) for column in cursor.description or []]
    return [dict(zip(names, map(plain, row), strict=True)) for row in cursor.fetchall()]
