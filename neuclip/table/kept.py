"""The columns of a table that travel with its pairs, beside their rows."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.foundation.errors import DataError
from neuclip.table.rows import Row


def kept_columns(rows: list[Row], names: list[str]) -> Any:  # noqa: ANN401  # pyarrow has no types
    """Return the columns that are kept of consecutive rows, `uid` first.

    Raises: DataError: if a column holds values of kinds that no one type can hold.
    """
    columns: dict[str, Any] = {"uid": [row.uid for row in rows]}
    for place, name in enumerate(names):
        try:
            columns[name] = pa.array([row.kept[place] for row in rows])
        except pa.ArrowException as error:
            raise DataError(
                f"column {name!r} of the URL table cannot be kept: {error}; write it with one type or take it out of "
                "acquire.keep_columns"
            ) from error
    return pa.table(columns)


def settle_types(paths: list[Path]) -> None:
    """Give the kept columns of all partitions the same types, as far as the rows of each left them open.

    Raises: DataError: if a column holds values of kinds that no one type can hold.
    """
    schemas = [pq.read_schema(path) for path in paths]
    try:
        settled = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"a column that acquire.keep_columns names has one type in some rows of the URL table, another in others: "
            f"{error}; write it with one type or take it out of acquire.keep_columns"
        ) from error
    for path, schema in zip(paths, schemas, strict=True):
        if schema != settled:
            pq.write_table(pq.read_table(path).cast(settled), path)
