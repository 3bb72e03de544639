"""Rows of JSON lines: one object a line, in which keys may come in any order, and null ones may be left out."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuclip.table.columns import Columns
from neuclip.table.text_lines import TextLines, unreadable

_SHOWN = 40
_MOST_NAMES = 10_000


def read_json_lines(
    path: Path, uri: str, columns: Columns
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield of every row where it stands, and what it has in the columns that are used; null is left out.

    Which columns there are is known at the end of the file: a column is there if any row has it.

    Raises: DataError: for a line that is no object, or columns that the recipe names and no row has.
    """
    lines = TextLines(path, uri)
    names: dict[str, None] = {}
    used = columns.all
    seen = rows = 0
    for number, line in enumerate(lines, start=1):
        seen += 1
        if not line.strip():
            continue
        record = _record(line, number, uri)
        rows += 1
        if len(names) < _MOST_NAMES or not used <= names.keys():
            names.update(dict.fromkeys(record))
        yield (
            f"line {number} of {uri}",
            {name: value for name, value in record.items() if name in used and value is not None},
        )
    lines.check_count(seen)
    if rows:
        columns.used(list(names), uri)


def _record(line: bytes, number: int, uri: str) -> dict[str, Any]:
    text = line.decode("utf-8", "surrogateescape")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unreadable(
            uri,
            f"line {number} is not JSON ({error}): {text[:_SHOWN].strip()!r}",
            "write one JSON object a line",
        ) from error
    if not isinstance(record, dict):
        raise unreadable(
            uri,
            f"line {number} holds {text[:_SHOWN].strip()!r}, expected one JSON object a line",
            "write one JSON object a line",
        )
    return record
