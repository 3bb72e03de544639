"""A record of a URL table as a row: each value checked.

A row that cannot be fetched keeps its place and gets a reason; a table that contradicts itself is an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuclip.acquired.texts import ALT
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import UID_LENGTH, is_uid, uid_of
from neuclip.foundation.plain_yaml import said_of
from neuclip.table.columns import is_web_address
from neuclip.table.config import SourceConfig

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_URL_CHARACTERS = 8_000
"""What servers take at most; the guard takes twelve times that, percent-encoded."""
TEXT_CHARACTERS = 100_000
"""Of a caption; what is longer is no caption, and a few bytes of a compressed table can repeat it without end."""
_NO_TEXT = re.compile("[\ud800-\udfff]")
"""What a byte that is not UTF-8 is read as, and half a character that JSON may hold."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of the table; `reason` says why it is not fetched, None if it is."""

    uid: str
    url: str | None
    captions: dict[str, list[str]]
    """Source -> its texts that can be used."""
    reason: str | None
    sha256: str | None = None
    """Hex digest that the downloaded bytes must have, None if the table does not say."""
    kept: tuple[Any, ...] = ()
    """Values of the columns that are kept."""
    unusable: dict[str, int] = field(default_factory=dict[str, int])
    """Source -> how many of its texts are endless or no UTF-8."""
    is_derived: bool = False
    """The uid is the hash of URL and caption, so a row with the same uid is the same row."""

    @property
    def characters(self) -> int:
        """How much text the row holds."""
        texts = [text for texts in self.captions.values() for text in texts]
        texts += [value for value in self.kept if isinstance(value, str)]
        return sum(map(len, texts)) + len(self.url or "")


def row_of(record: Record, where: str, config: SourceConfig, *, has_uid: bool) -> Row:
    """Read one record as a pair; what is no UTF-8 text, or is endless, costs that text, not the row.

    Raises: DataError: if a value is not what its column should hold.
    """
    url = _url(record.get(config.url_column), where, config)
    columns = {ALT: config.caption_column, **config.caption_columns}
    found = {
        source: texts
        for source, column in columns.items()
        if (texts := _texts(record.get(column), where, column))
    }
    if has_uid:
        uid = _uid(record.get(config.uid_column), where, config)
    else:
        alt = found.get(ALT, [""])[0][:TEXT_CHARACTERS]
        uid = uid_of(_mended(url) or "", _mended(alt))
    captions, unusable = usable_texts(found)
    return Row(
        uid=uid,
        url=url and as_stored(url),
        captions=captions,
        reason=_reason(url),
        sha256=_sha256(record.get(config.sha256_column), where, config),
        kept=tuple(_mended(record.get(column)) for column in config.keep_columns),
        unusable=unusable,
        is_derived=not has_uid,
    )


def as_stored(url: str) -> str:
    """Return an address as rows hold it."""
    return _mended(url.strip())[:_URL_CHARACTERS]


def usable_texts(found: Mapping[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the texts of each source that can be used, and how many of each cannot."""
    usable = {source: list(filter(is_usable, texts)) for source, texts in found.items()}
    lost = {source: len(found[source]) - len(texts) for source, texts in usable.items()}
    return (
        {source: texts for source, texts in usable.items() if texts},
        {source: count for source, count in lost.items() if count},
    )


def is_usable(text: str) -> bool:
    """Tell whether a text can be used: it is not endless, and was UTF-8."""
    return len(text) <= TEXT_CHARACTERS and not _NO_TEXT.search(text)


def _url(value: object, where: str, config: SourceConfig) -> str | None:
    if _is_missing(value):
        return None
    if not isinstance(value, str):
        raise DataError(
            f"column {config.url_column!r} of {where} holds {said_of(value)}, expected a URL as text"
        )
    return value.strip() or None


def _reason(url: str | None) -> str | None:
    if url is None:
        return "no_url"
    if not is_web_address(url):
        return "bad_scheme"
    is_bad = len(url) > _URL_CHARACTERS or "\0" in url or _NO_TEXT.search(url)
    return "bad_url" if is_bad else None


def _is_missing(value: object) -> bool:
    """Tell whether a value is null, or what some writers put for it."""
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124  # not a number


def _mended(value: Any) -> Any:  # noqa: ANN401
    """Put the sign for unreadable characters where there was no text."""
    if isinstance(value, str):
        return _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", value) if _NO_TEXT.search(value) else value
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {name: _mended(each) for name, each in value.items()}
    return value


def _uid(value: object, where: str, config: SourceConfig) -> str:
    uid = str(value).strip().lower()
    if not is_uid(uid):
        raise DataError(
            f"column {config.uid_column!r} of {where} holds {said_of(value)}, expected {UID_LENGTH} hex digits; "
            "take the column out of the table to have uids derived from url and caption"
        )
    return uid


def _sha256(value: object, where: str, config: SourceConfig) -> str | None:
    if _is_missing(value) or value == "":
        return None
    if not isinstance(value, str) or not _SHA256.fullmatch(value.strip()):
        raise DataError(
            f"column {config.sha256_column!r} of {where} holds {said_of(value)}, expected 64 hex digits or nothing; "
            "set acquire.sha256_column to the column with the hashes, or to a name that the table does not have"
        )
    return value.strip().lower()


def _texts(value: object, where: str, column: str) -> list[str]:
    """Return the texts of a caption column: one text or a list; nulls and blank texts are left out."""
    values: list[Any] = value if isinstance(value, list) else [value]
    values = [text for text in values if not _is_missing(text)]
    for text in values:
        if not isinstance(text, str):
            raise DataError(
                f"column {column!r} of {where} holds {said_of(text)}, expected a text or a list of texts"
            )
    return [text for text in values if text and text.strip()]
