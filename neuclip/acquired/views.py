"""The views `rows`, every row of the input once, and `texts`, what was said of each."""

from pathlib import Path

import duckdb

from neuclip.acquired.listing import read_listing
from neuclip.acquired.partitions import rows_paths, texts_paths
from neuclip.acquired.reasons import REPEATS
from neuclip.stages.manifest import read_manifest
from neuclip.stages.views import add_table, dataset_of


def add_rows(connection: duckdb.DuckDBPyConnection, acquire_uri: str) -> None:
    """Make the view; of a row that was tried again it has what came of it in the end."""
    rounds: dict[int, list[Path]] = {}
    paths = dict(zip(read_manifest(acquire_uri).parts, rows_paths(acquire_uri), strict=True))
    for listed in read_listing(acquire_uri):
        rounds.setdefault(listed.get("round") or 0, []).append(paths[listed["part"]])
    names = {number: f"rows_of_round_{number}" for number in sorted(rounds)}
    for number, name in names.items():
        add_table(connection, name, dataset_of(rounds[number]))
    selects: list[str] = []
    for number, name in names.items():
        later = " UNION ALL ".join(f"SELECT uid FROM {names[n]}" for n in names if n > number)  # noqa: S608
        is_final = f"coalesce(reason IN {REPEATS}, false) OR uid NOT IN ({later})"
        selects.append(f"SELECT * FROM {name}" + (f" WHERE {is_final}" if later else ""))  # noqa: S608
    connection.execute(f"CREATE TEMP VIEW rows AS {' UNION ALL '.join(selects)}")


def add_texts(connection: duckdb.DuckDBPyConnection, acquire_uri: str) -> None:
    """Make the view; a row that was tried again stands there for its first try alone."""
    listed = zip(read_listing(acquire_uri), texts_paths(acquire_uri), strict=True)
    first_tries = [path for row, path in listed if row["repairs"] is None]
    add_table(connection, "texts", dataset_of(first_tries))
