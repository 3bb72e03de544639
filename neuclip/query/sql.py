"""Run one SQL statement over a recipe's tables."""

import re
from dataclasses import dataclass
from typing import Any

import duckdb

from neuclip.foundation.errors import ConfigError, DataError, nearest
from neuclip.query.views import VIEWS, Tables, opened
from neuclip.recipe import Recipe
from neuclip.storage.values import plain


@dataclass(frozen=True)
class QueryResult:
    """What a statement gave."""

    columns: list[str]
    rows: list[list[Any]]
    """JSON values."""
    is_cut: bool
    """There are more rows than the limit."""


def run_query(recipe: Recipe, statement: str, *, limit: int) -> QueryResult:
    """Run a SELECT over the views of `views.VIEWS`; at most `limit` rows are fetched.

    Raises: ConfigError: if the statement is wrong, is not one SELECT, or names what is not there.
        DataError: if it needs a file or more memory than there is.
    """
    tables = Tables(recipe)
    _check_kind(statement)
    with opened(tables, statement) as connection:
        try:
            cursor = connection.execute(statement)
            columns = [str(column[0]) for column in cursor.description or []]
            rows = cursor.fetchmany(limit + 1)
        except duckdb.CatalogException as error:
            raise ConfigError(_about_names(str(error), tables)) from error
        except (duckdb.PermissionException, duckdb.OutOfMemoryException) as error:
            raise DataError(
                f"the statement reads or writes a file, or needs more memory than this machine has; only the views "
                f"{', '.join(tables.views)} can be read ({_first_line(error)})"
            ) from error
        except duckdb.Error as error:
            raise ConfigError(f"DuckDB refuses the statement: {error}") from error
    shown = [[plain(value) for value in row] for row in rows[:limit]]
    return QueryResult(columns, shown, is_cut=len(rows) > limit)


def _check_kind(statement: str) -> None:
    """Refuse what is not one SELECT before any file is opened."""
    try:
        with duckdb.connect() as parser:
            kinds = [parsed.type for parsed in parser.extract_statements(statement)]
    except duckdb.Error as error:
        raise ConfigError(f"the statement is not SQL: {error}") from error
    if kinds != [duckdb.StatementType.SELECT]:
        found = ", ".join(kind.name for kind in kinds) or "nothing"
        raise ConfigError(
            f"expected one SELECT statement, found {found}; the tables are only read: what is to be kept or dropped "
            "is said by the recipe"
        )


def _about_names(message: str, tables: Tables) -> str:
    views = ", ".join(tables.views) or "none"
    waiting = ", ".join(f"{view} (needs {stage})" for view, stage in tables.missing.items())
    named = re.search(r'with name "?(\w+)', message)
    name = named[1] if named else ""
    stage = VIEWS.get(name)
    if stage is not None:
        return (
            f"view {name} is there when stage {stage} has been done with this recipe: run `--only {stage}`. "
            f"Views now: {views}"
        )
    return (
        f"{message.splitlines()[0].split('!')[0]}.{nearest(name, tables.views)} Views: {views}"
        + (f"; not there yet: {waiting}" if waiting else "")
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
