"""The rows of files that are imported: a key, and the texts that belong to it."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from neuclip.acquired.texts import ALT
from neuclip.captions.alignment import Alignment, words_of
from neuclip.captions.import_json import read_entries
from neuclip.captions.imports import (
    JSON_SUFFIXES,
    LINES_SUFFIXES,
    ImportedJson,
    ImportedLines,
    ImportedTable,
    KeyedTable,
)
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import UID_LENGTH, is_uid
from neuclip.foundation.plain_yaml import said_of
from neuclip.foundation.text import printable
from neuclip.storage.cache import local_copy
from neuclip.storage.files import exists, expand
from neuclip.table.columns import Columns
from neuclip.table.files import read_records, table_files
from neuclip.table.rows import Record, as_stored
from neuclip.table.text_lines import TextLines, unreadable

_SHOWN = 200


class ImportedRow(NamedTuple):
    """One row of what is imported."""

    where: str
    key: str | None
    """As pairs have it; None if there is none."""
    caption: str | None
    """What its pair's alt text must be, see `plain`; None if that is not asked."""
    texts: list[str | None]
    """None where a text is missing."""


def plain(text: str) -> str:
    """Return a text as texts are compared: white space aside."""
    return printable(" ".join(text.split()))


class ImportReader:
    """Reads the files of an import, row by row, in bounded memory.

    Args:
        section: where the import stands in the recipe.
    """

    def __init__(self, config: ImportedLines | ImportedJson | ImportedTable, section: str) -> None:
        self._config, self._section = config, section
        self.agreement: dict[str, float | None] = {}
        """Of a file of lines, once it was read: see `Alignment.finish`."""

    def rows(self) -> Iterator[ImportedRow]:
        """Yield all rows in order.

        Raises: DataError: for a file that is missing, unreadable, or not what the import says; for lines that are not
            in step with their table.
        """
        match self._config:
            case ImportedLines():
                return self._lines(self._config)
            case ImportedJson():
                return self._json(self._config)
            case ImportedTable():
                return self._table(self._config)

    def _table(self, config: ImportedTable) -> Iterator[ImportedRow]:
        texts = {f"text_columns.{n}": column for n, column in enumerate(config.text_columns)}
        for where, record in self._records(config, texts):
            found = [
                text
                for column in config.text_columns
                for text in _texts(record.get(column), where, column)
            ]
            yield ImportedRow(where, self._key(record, where), None, found)

    def _json(self, config: ImportedJson) -> Iterator[ImportedRow]:
        for uri in _files(config.files, JSON_SUFFIXES, f"{self._section}.files"):
            try:
                entries = read_entries(local_copy(uri), uri, config.keys_in, config.text_field)
                for where, key, texts in entries:
                    found = _texts(texts, where, config.text_field)
                    yield ImportedRow(where, self._key({config.keys_in: key}, where), None, found)
            except (OSError, EOFError, zlib.error) as error:
                raise unreadable(uri, str(error), "write it again or take it out") from error

    def _lines(self, config: ImportedLines) -> Iterator[ImportedRow]:
        setting = f"{self._section}.files"
        uris = [uri for place in config.files for uri in _files(place, LINES_SUFFIXES, setting)]
        files = [_lines_of(uri) for uri in uris]
        alignments = [Alignment(uri, config.table) for uri in uris]
        count = 0
        for where, record in self._records(config, {"caption_column": config.caption_column}):
            captions = _texts(record.get(config.caption_column), where, config.caption_column)
            caption = captions[0] or ""
            words = words_of(caption)
            texts: list[str | None] = []
            for uri, lines, alignment in zip(uris, files, alignments, strict=True):
                text = next(lines, None)
                if text is None:
                    raise _uneven(uri, f"{count} lines and", f"more than {count} rows", config)
                alignment.add(words, words_of(text))
                texts.append(text)
            count += 1
            own = None if config.key == ALT else plain(caption)
            yield ImportedRow(where, self._key(record, where), own, texts)
        for uri, lines, alignment in zip(uris, files, alignments, strict=True):
            if next(lines, None) is not None:
                raise _uneven(uri, f"more than {count} lines and", f"{count} rows", config)
            self.agreement[uri] = alignment.finish()

    def _records(
        self, config: KeyedTable, settings: dict[str, str]
    ) -> Iterator[tuple[str, Record]]:
        columns = Columns(
            self._section,
            {"key_column": config.keys_in, **settings},
            url=config.keys_in if config.key == "url" else None,
        )
        for uri in table_files(config.table, setting=f"{self._section}.table"):
            yield from read_records(uri, columns, config.columns)

    def _key(self, record: Record, where: str) -> str | None:
        """Return the key of a record as pairs have it."""
        key, column = self._config.key, self._config.keys_in
        value: Any = record.get(column)
        if value is None or value != value or (isinstance(value, str) and not value.strip()):  # noqa: PLR0124  # not a number
            return None
        if key not in ("url", "uid", ALT) and type(value) is int:
            return str(value)
        if not isinstance(value, str):
            raise DataError(f"{column!r} of {where} holds {said_of(value)}, expected a key as text")
        if key == "uid":
            return _uid(value, where, column)
        return as_stored(value) if key == "url" else plain(value)


def _uid(value: str, where: str, column: str) -> str:
    uid = value.strip().lower()
    if not is_uid(uid):
        raise DataError(
            f"{column!r} of {where} holds {said_of(value)}, expected a uid of {UID_LENGTH} hex digits; set `key` of "
            "the import to what the column holds"
        )
    return uid


def _texts(value: object, where: str, column: str) -> list[str | None]:
    """Return a text or a list of texts as a list; null, and what some writers put for it, is one that is missing."""
    values: Sequence[object] = value if isinstance(value, list) else [value]
    texts: list[str | None] = []
    for text in values:
        if text is None or text != text:  # noqa: PLR0124  # not a number
            texts.append(None)
        elif isinstance(text, str):
            texts.append(text)
        else:
            raise DataError(
                f"{column!r} of {where} holds {said_of(text)}, expected a text or a list of texts"
            )
    return texts or [None]


def _files(uri: str, suffixes: tuple[str, ...], setting: str) -> list[str]:
    files = [file for file in expand(uri, suffixes) if exists(file)]
    if not files:
        raise DataError(
            f"expected a file ({', '.join(suffixes)}) or a folder of them at {uri}, found none; set {setting} to where "
            "it is"
        )
    return files


def _lines_of(uri: str) -> Iterator[str]:
    lines = TextLines(local_copy(uri), uri)
    seen = 0
    try:
        for line in lines:
            seen += 1
            yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(uri, str(error), "write it again or take it out") from error
    lines.check_count(seen)


def _uneven(uri: str, lines: str, rows: str, config: ImportedLines) -> DataError:
    return DataError(
        f"{uri} has {lines} {config.table} has {rows}; expected a line for each row, in the same order: get both "
        "files of one release"
    )
