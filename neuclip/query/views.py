"""The tables of a recipe's committed stages as views of one DuckDB connection that can read nothing else."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from neuclip.acquire.listing import read_listing
from neuclip.acquire.raw import rows_paths
from neuclip.acquire.reasons import REPEATS
from neuclip.captions.run import CAPTIONS
from neuclip.curate.run import VERDICTS
from neuclip.index.database import INDEX
from neuclip.index.sample_index import SIGNALS
from neuclip.journey import identify
from neuclip.recipe import Recipe
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import is_committed, read_manifest
from neuclip.storage.tables import ArrowTable

VIEWS = {
    "rows": "acquire",
    "verdicts": "curate",
    "rules": "curate",
    "captions": "caption",
    "samples": "index",
    "features": "index",
    "clusters": "index",
    "signals": "index",
}
"""View -> the stage that must be done."""

_OF_THE_INDEX = ("samples", "features", "clusters", "signals")

# A statement may hold COPY or INSERT in a common table expression, so it is not enough to look at its kind: DuckDB
# loses the file system itself. Views over Parquet are read by pyarrow, and the index through its open handle.
_LOCKED = (
    "SET enable_external_access = false",
    "SET disabled_filesystems = 'LocalFileSystem'",
    "SET python_enable_replacements = false",
    "SET lock_configuration = true",
)


class Tables:
    """Where a recipe's tables lie, as far as its stages are done."""

    def __init__(self, recipe: Recipe) -> None:
        self.uris = {stage: identity.uri for stage, identity in identify(recipe).items()}
        self.is_done = {stage: is_committed(uri) for stage, uri in self.uris.items()}

    @property
    def views(self) -> list[str]:
        """Views that there are now."""
        return [view for view, stage in VIEWS.items() if self.is_done[stage]]

    @property
    def missing(self) -> dict[str, str]:
        """Views that there are not yet -> the stage they wait for."""
        return {view: stage for view, stage in VIEWS.items() if not self.is_done[stage]}

    def file(self, stage: str, name: str) -> Path:
        """Return a local path of a file of a committed stage.

        Raises: IntegrityError: if the stage's files are not what was committed.
        """
        return committed_file(self.uris[stage], name)

    def rules(self) -> list[str]:
        """Return curate's reasons; bit i of a verdict's `failed` is the i-th."""
        return list(read_manifest(self.uris["curate"]).summary["rules"])


@contextmanager
def opened(tables: Tables, statement: str) -> Generator[duckdb.DuckDBPyConnection]:
    """Open a connection with the views that a statement may mean; it can read them and nothing else."""
    mentioned = set(re.findall(r"\w+", statement.lower()))
    with duckdb.connect() as connection:
        if tables.is_done["index"]:
            connection.execute(
                f"ATTACH {_quoted(tables.file('index', INDEX))} AS sample_index (READ_ONLY)"
            )
            for view in _OF_THE_INDEX:
                connection.execute(f"CREATE VIEW {view} AS SELECT * FROM sample_index.{view}")  # noqa: S608
        for view, source in _sources(tables).items():
            if view in mentioned:  # the files of a remote root are fetched when they are asked for
                connection.execute(f"DROP VIEW IF EXISTS {view}")
                connection.register(view, source())
        if "rows" in mentioned and tables.is_done["acquire"]:
            _add_rows(connection, tables.uris["acquire"])
        for setting in _LOCKED:
            connection.execute(setting)
        yield connection


def _sources(tables: Tables) -> dict[str, Callable[[], ArrowTable]]:
    """Return what the views outside the index are read from."""
    sources: dict[str, Callable[[], ArrowTable]] = {
        "verdicts": lambda: _parquet([tables.file("curate", VERDICTS)]),
        "rules": lambda: _rules_table(tables.rules()),
        "captions": lambda: _parquet([tables.file("caption", CAPTIONS)]),
    }
    found = {view: source for view, source in sources.items() if tables.is_done[VIEWS[view]]}
    if tables.is_done["index"] and has_signals(tables):
        found["signals"] = lambda: _parquet([tables.file("train", SIGNALS)])
    return found


def _add_rows(connection: duckdb.DuckDBPyConnection, acquire_uri: str) -> None:
    """Make the view `rows`: every row of the input once; of one that was tried again, what came of it in the end."""
    rounds: dict[int, list[Path]] = {}
    paths = dict(zip(read_manifest(acquire_uri).parts, rows_paths(acquire_uri), strict=True))
    for listed in read_listing(acquire_uri):
        rounds.setdefault(listed.get("round") or 0, []).append(paths[listed["part"]])
    names = {number: f"rows_of_round_{number}" for number in sorted(rounds)}
    for number, name in names.items():
        connection.register(name, _parquet(rounds[number]))
    selects: list[str] = []
    for number, name in names.items():
        later = " UNION ALL ".join(f"SELECT uid FROM {names[n]}" for n in names if n > number)  # noqa: S608
        last_word = f"coalesce(reason IN {REPEATS}, false) OR uid NOT IN ({later})"
        selects.append(f"SELECT * FROM {name}" + (f" WHERE {last_word}" if later else ""))  # noqa: S608
    connection.execute(f"CREATE TEMP VIEW rows AS {' UNION ALL '.join(selects)}")


def _parquet(paths: Sequence[Path]) -> ArrowTable:
    return ds.dataset([str(path) for path in paths])


def has_signals(tables: Tables) -> bool:
    """Tell whether training is done and recorded signals."""
    if not tables.is_done["train"]:
        return False
    return SIGNALS in {file.name for file in read_manifest(tables.uris["train"]).files}


def _rules_table(reasons: list[str]) -> ArrowTable:
    return pa.table({"bit": range(len(reasons)), "reason": reasons})


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
