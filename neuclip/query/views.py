"""The tables of a recipe's committed stages as views of one DuckDB connection that can read nothing else."""

import re
from collections.abc import Generator
from contextlib import contextmanager

import duckdb

from neuclip.journey import identify
from neuclip.recipe import Recipe
from neuclip.stage_list import STAGES
from neuclip.stages.manifest import is_committed

VIEWS = {view: stage.name for stage in STAGES if stage.views for view in stage.views.names}
"""View -> the stage that must be done."""

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
        return [view for view, stage in VIEWS.items() if self.is_done.get(stage)]

    @property
    def missing(self) -> dict[str, str]:
        """Views that there are not yet -> the stage they wait for."""
        return {view: stage for view, stage in VIEWS.items() if not self.is_done[stage]}


@contextmanager
def opened(tables: Tables, statement: str) -> Generator[duckdb.DuckDBPyConnection]:
    """Open a connection with the views that a statement may mean; it can read them and nothing else."""
    mentioned = set(re.findall(r"\w+", statement.lower()))
    with duckdb.connect() as connection:
        for stage in STAGES:
            if stage.views is not None and tables.is_done[stage.name]:
                stage.views.add(connection, tables.uris[stage.name], mentioned)
        for setting in _LOCKED:
            connection.execute(setting)
        yield connection
