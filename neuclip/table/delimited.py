"""Rows of CSV (RFC 4180, quoted) and of TSV (one line a row, quotes are text)."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from neuclip.table.columns import Columns, is_web_address
from neuclip.table.text_lines import MOST_LINE_BYTES, TextLines, unreadable

_SHOWN = 200

_Fields = tuple[int, int, list[str]]
"""Number of the first line of a row, how many lines it has, and its fields; none in a blank line."""


def read_delimited(
    path: Path, uri: str, columns: Columns, names: Sequence[str] | None
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield of every row where it stands, and its fields in the columns that are used.

    Bytes that are not UTF-8 become lone surrogates.

    Args:
        names: of the columns of a file without a header line; None if it has one.
    Raises: DataError: for a row with another number of fields than there are columns, a quote that is not closed, or
        columns that the recipe names and the file lacks.
    """
    lines = TextLines(path, uri)
    is_tsv = ".tsv" in path.suffixes[-2:]
    rows = _split_tabs(lines) if is_tsv else _split_commas(lines, uri)
    header = names
    places = _places(names, columns, uri) if names is not None else {}
    seen, is_first = 0, True
    for number, count, fields in rows:
        seen += count
        if not fields:
            continue
        if header is None:
            header = _header(fields, uri)
            places = _places(header, columns, uri)
            continue
        if is_first and names is not None and _is_header(fields, names):
            raise unreadable(
                uri,
                f"its first line has the names of {columns.section}.columns",
                f"leave {columns.section}.columns out",
            )
        is_first = False
        if len(fields) != len(header):
            raise _ragged(uri, number, fields, header, is_tsv=is_tsv)
        if count > 1 and columns.url is not None:
            _check_swallowed(uri, number, fields, places[columns.url])
        yield f"line {number} of {uri}", {name: fields[place] for name, place in places.items()}
    lines.check_count(seen)
    if header is None:
        raise unreadable(
            uri, "it is empty, expected a line with the names of its columns", "take it out"
        )


def _places(header: Sequence[str], columns: Columns, uri: str) -> dict[str, int]:
    used = columns.used(header, uri)
    return {name: place for place, name in enumerate(header) if name in used}


def _is_header(fields: Sequence[str], names: Sequence[str]) -> bool:
    return [field.strip().casefold() for field in fields] == [name.casefold() for name in names]


def _split_tabs(lines: TextLines) -> Iterator[_Fields]:
    for number, line in enumerate(lines, start=1):
        text = _text(line).removesuffix("\n").removesuffix("\r")
        yield number, 1, text.split("\t") if "\t" in text or text.strip() else []


def _split_commas(lines: TextLines, uri: str) -> Iterator[_Fields]:
    csv.field_size_limit(MOST_LINE_BYTES)
    reader = csv.reader(map(_text, lines), strict=True)
    before = 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise unreadable(
                uri,
                f"the row that begins at line {before + 1} is not what RFC 4180 allows ({error})",
                "close each quoted field, and write a quote inside one twice",
            ) from error
        is_blank = not fields or (len(fields) == 1 and not fields[0].strip())
        yield before + 1, reader.line_num - before, [] if is_blank else fields
        before = reader.line_num


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def _header(fields: list[str], uri: str) -> list[str]:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError as error:
        raise unreadable(
            uri,
            "its header line is not UTF-8",
            "convert it (iconv -f LATIN1 -t UTF-8, for example)",
        ) from error
    return fields


def _check_swallowed(uri: str, number: int, fields: list[str], url_place: int) -> None:
    """Refuse a field over several lines one of which is a row by itself: a quote before it was never closed."""
    for field in fields:
        for further, line in enumerate(field.split("\n")[1:], start=1):
            inner = next(csv.reader([line]), [])
            if len(inner) == len(fields) and is_web_address(inner[url_place]):
                raise unreadable(
                    uri,
                    f"a quoted field of the row at line {number} holds the row at line {number + further} "
                    f"({line[:_SHOWN]!r})",
                    "close the quote; if the field is meant to hold it, write the table as JSON lines or Parquet",
                )


def _ragged(
    uri: str, number: int, fields: list[str], header: Sequence[str], *, is_tsv: bool
) -> Exception:
    shown = ", ".join(header)[:_SHOWN]
    return unreadable(
        uri,
        f"line {number} has {len(fields)} fields, expected {len(header)} ({shown})",
        "a field of a TSV file cannot hold a tab or a line end, and quotes are text there: write the table as CSV, "
        "JSON lines or Parquet"
        if is_tsv
        else "put fields that hold a comma, a quote or a line end in quotes",
    )
