"""JSON of any size, one entry after the other: a mapping of keys to texts, a list of objects, or objects one by one."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuclip.foundation.errors import DataError
from neuclip.table.columns import is_web_address
from neuclip.table.text_lines import text_blocks, unreadable

_MOST_CHARACTERS = 1 << 24
_SHOWN = 40
_SPACE = " \t\r\n"
_NEXT = "expected {URL: text, ...}, [{...}, ...] or one object a line; download it again, or write it as one of them"


def read_entries(
    path: Path, uri: str, key_field: str, text_field: str
) -> Iterator[tuple[str, Any, Any]]:
    """Yield of every entry where it stands, its key and its text or texts, as JSON has them; None for what it lacks.

    The file is a mapping if its first name is a web address. Bytes that are not UTF-8 become lone surrogates.

    Raises: DataError: for what is no such JSON, an entry of more than 16 MiB, or objects that all lack a field.
    """
    if _Reader(path, uri).is_mapping():
        yield from _members(_Reader(path, uri))
        return
    lacking = {key_field, text_field}
    seen: dict[str, None] = {}
    for where, record in _objects(_Reader(path, uri)):
        if lacking:
            lacking -= record.keys()
            seen.update(dict.fromkeys(list(record)[:_SHOWN]))
        yield where, record.get(key_field), record.get(text_field)
    if lacking and seen:
        raise DataError(
            f"no object of {uri} has the field {sorted(lacking)[0]!r}; fields there: {', '.join(list(seen)[:_SHOWN])}; "
            "set key_field and text_field of the import to two of them"
        )


def _members(reader: "_Reader") -> Iterator[tuple[str, Any, Any]]:
    reader.take("{")
    while True:
        key = reader.value()
        if not isinstance(key, str):
            raise reader.wrong("a name that is no text")
        reader.take(":")
        yield reader.where(), key, reader.value()
        if reader.peek() != ",":
            break
        reader.take(",")
    reader.take("}")
    reader.finish()


def _objects(reader: "_Reader") -> Iterator[tuple[str, dict[str, Any]]]:
    is_list = reader.peek() == "["
    if is_list:
        reader.take("[")
    while reader.peek() not in ("", "]"):
        record = reader.value()
        if not isinstance(record, dict):
            raise reader.wrong("what is no object")
        yield reader.where(), record
        if is_list and reader.peek() != "]":
            reader.take(",")
    if is_list:
        reader.take("]")
    reader.finish()


class _Reader:
    """Reads JSON values from a file block by block."""

    def __init__(self, path: Path, uri: str) -> None:
        self._uri = uri
        self._blocks = text_blocks(path, uri)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._json = json.JSONDecoder()
        self._text, self._place, self._is_all = "", 0, False
        self._entries = 0

    def is_mapping(self) -> bool:
        """Tell whether the file begins with an object whose first name is a web address; the reader is used up then."""
        if not self.peek():
            raise unreadable(self._uri, "it is empty", "download it again, or take it out")
        if self.peek() != "{":
            return False
        self.take("{")
        return self.peek() == '"' and is_web_address(self.value())

    def where(self) -> str:
        """Count an entry, and say where it stands."""
        self._entries += 1
        return f"entry {self._entries} of {self._uri}"

    def peek(self) -> str:
        """Return the next character that is no white space; nothing at the end."""
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in _SPACE:
                    return self._text[self._place]
                self._place += 1
            if not self._read_on():
                return ""

    def take(self, character: str) -> None:
        """Step over a character."""
        if self.peek() != character:
            raise self.wrong(f"no {character!r} where one belongs")
        self._place += 1

    def value(self) -> Any:  # noqa: ANN401  # any JSON value
        """Return the next value."""
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._place)
            except RecursionError as error:
                raise self.wrong("lists in lists without end") from error
            except ValueError as error:
                if len(self._text) - self._place > _MOST_CHARACTERS:
                    raise self.wrong(
                        "an entry of more than 16 MiB, or one that is no JSON"
                    ) from error
                if not self._read_on():
                    raise self.wrong("what is no JSON") from error
            else:
                if end < len(self._text) or not self._read_on():
                    self._place = min(end, len(self._text))
                    return value

    def finish(self) -> None:
        """Make sure that the file ends here."""
        if self.peek():
            raise self.wrong("more after its end")

    def wrong(self, what: str) -> DataError:
        """Return the error of a file that is something else."""
        shown = self._text[self._place : self._place + _SHOWN].strip()
        return unreadable(self._uri, f"after entry {self._entries} it has {what}: {shown!r}", _NEXT)

    def _read_on(self) -> bool:
        """Add a block to the text that is not used up; tell whether there was one."""
        if self._is_all:
            return False
        block = next(self._blocks, b"")
        self._is_all = not block
        self._text = self._text[self._place :] + self._decoder.decode(block, final=self._is_all)
        self._place = 0
        return True
