"""Rows of a Parquet file: only the columns that are used, as many rows at a time as bytes allow."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.table.columns import Columns
from neuclip.table.text_lines import unreadable

_BATCH_BYTES = 1 << 24
_MOST_ROWS = 1024
_ROWS_OF_DELTAS = 16
"""Of columns whose encoding repeats what the row before has: a few bytes of the file are texts of any size."""
_LONG_BYTES = 1 << 16
_DELTAS = "DELTA_"
_BYTES = "BYTE_ARRAY"


def read_parquet(path: Path, uri: str, columns: Columns) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield of every row where it stands, and its values in the columns that are used.

    Bytes that are not UTF-8 become lone surrogates.

    Raises: DataError: if a column that the recipe names is missing, or the file has other rows than its footer says.
    """
    with pq.ParquetFile(path) as file:
        count = file.metadata.num_rows
        if not count:
            return
        used = columns.used(file.schema_arrow.names, uri)
        paths = [leaf.path for leaf in file.schema if _is_of(leaf.path, used)]
        at_once, dictionaries = _rows_at_once(file.metadata, set(paths))
    seen = 0
    with pq.ParquetFile(path, read_dictionary=_long_repeats(path, dictionaries)) as file:
        for batch in file.iter_batches(at_once, columns=paths):
            names = batch.schema.names
            values = [python_values(batch.column(place)) for place in range(len(names))]
            for row in zip(*values, strict=True):
                yield f"row {seen} of {uri}", dict(zip(names, row, strict=True))
                seen += 1
    if seen != count:
        raise unreadable(uri, f"{seen} rows were read of {count} in its footer", "write it again")


def python_values(column: Any) -> list[Any]:  # noqa: ANN401  # pyarrow has no types
    """Return the values of a pyarrow array; bytes become text, with lone surrogates for what is not UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        used = column.indices.unique().drop_null()
        texts = python_values(column.dictionary.take(used))
        known = dict(zip(used.to_pylist(), texts, strict=True))
        return [known.get(place) for place in column.indices.to_pylist()]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        known, ends = python_values(column.values), column.offsets.to_pylist()
        return [
            known[ends[n] : ends[n + 1]] if there else None
            for n, there in enumerate(column.is_valid().to_pylist())
        ]
    if pa.types.is_struct(kind):
        fields = [python_values(field) for field in column.flatten()]
        names = [field.name for field in kind]
        return [
            dict(zip(names, row, strict=True)) if there else None
            for row, there in zip(
                zip(*fields, strict=True), column.is_valid().to_pylist(), strict=True
            )
        ]
    if "binary" in str(kind):
        return [_text(value) for value in column.to_pylist()]
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_text(value) for value in column.cast(pa.large_binary()).to_pylist()]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "surrogateescape")


def _is_of(path: str, names: frozenset[str]) -> bool:
    """Tell whether a leaf, captions.list.element for example, is of one of the columns; names may hold dots."""
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _rows_at_once(metadata: Any, paths: set[str]) -> tuple[int, set[str]]:  # noqa: ANN401
    """Return how many rows are about _BATCH_BYTES by the footer, and the leaves that may hold a dictionary."""
    at_once, dictionaries, deltas = _MOST_ROWS, set[str](), set[str]()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(place) for place in range(group.num_columns)]
        used = [chunk for chunk in chunks if chunk.path_in_schema in paths]
        size = sum(chunk.total_uncompressed_size for chunk in used)
        at_once = min(at_once, _BATCH_BYTES * group.num_rows // max(size, 1))
        for chunk in used:
            if any(encoding.startswith(_DELTAS) for encoding in chunk.encodings):
                deltas.add(chunk.path_in_schema)
            elif chunk.physical_type == _BYTES and chunk.has_dictionary_page:
                dictionaries.add(chunk.path_in_schema)
    return max(min(at_once, _ROWS_OF_DELTAS) if deltas else at_once, 1), dictionaries - deltas


def _long_repeats(path: Path, leaves: set[str]) -> list[str]:
    """Return the leaves with a dictionary of which a value is long: the footer tells its bytes once, rows repeat it.

    They alone are read as dictionaries, which grow with every batch and are copied each time.
    """
    found: set[str] = set()
    with pq.ParquetFile(path, read_dictionary=sorted(leaves)) as file:
        for number in range(file.metadata.num_row_groups if leaves else 0):
            for leaf in sorted(leaves - found):
                batches = file.iter_batches(1, row_groups=[number], columns=[leaf])
                if any(_longest(batch.column(0)) > _LONG_BYTES for batch in islice(batches, 1)):
                    found.add(leaf)
    return sorted(found)


def _longest(column: Any) -> int:  # noqa: ANN401
    """Return the bytes of the longest value in the dictionary of an array, or of one inside it."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return max((len(text or "") for text in python_values(column.dictionary)), default=0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _longest(column.values)
    if pa.types.is_struct(kind):
        return max(map(_longest, column.flatten()), default=0)
    return 0
