"""Which columns of a table are used, and what to say where one is missing."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from neuclip.foundation.errors import DataError, nearest
from neuclip.table.config import SourceConfig

_SHOWN_NAMES = 40
_SHOWN_CHARACTERS = 100
_WEB_SCHEMES = ("http://", "https://")
_OTHER_NAMES = {
    "url_column": ("url", "image_url", "img_url", "image", "link", "src", "photo_image_url"),
    "caption_column": ("caption", "text", "alt", "alt_text", "title", "description"),
}
"""What tables of the field call these columns."""
_OPTIONAL = {"uid_column": "uid", "sha256_column": "sha256"}
"""Settings that need no column as long as they have this name."""


def is_web_address(text: str) -> bool:
    """Tell whether a text begins like an address on the web."""
    return text.strip().lower().startswith(_WEB_SCHEMES)


@dataclass(frozen=True)
class Columns:
    """The columns that a part of a recipe names.

    Args:
        section: where in the recipe they are named.
        settings: setting of the section -> the column that it names.
        optional: settings that need no column.
        url: the column with the address, None if there is none.
    """

    section: str
    settings: Mapping[str, str]
    optional: Collection[str] = ()
    url: str | None = None

    @cached_property
    def all(self) -> frozenset[str]:
        """Every column that may be used."""
        return frozenset(self.settings.values())

    def used(self, names: Sequence[str], uri: str) -> frozenset[str]:
        """Return those columns of a file that are used.

        Raises: DataError: naming every column that is missing or there twice, with what to set.
        """
        twice = [name for name, count in Counter(names).items() if count > 1 and name in self.all]
        if twice:
            raise DataError(
                f"{uri} has two columns called {twice[0]!r}; rename one of them, so that it is plain which one is meant"
            )
        if addresses := [name for name in names if is_web_address(name)]:
            raise DataError(
                f"{uri} has a column called {addresses[0][:_SHOWN_CHARACTERS]!r}, expected a name: the file has no "
                f"header line, or was written from one without; for CSV and TSV set {self.section}.columns to the "
                "names of its columns in order, for example [caption, url], else write it again with names"
            )
        missing = [
            f"{column!r}{self._meant(setting, column, names)}"
            for setting, column in self.settings.items()
            if column not in names and setting not in self.optional
        ]
        if missing:
            there = ", ".join(name[:_SHOWN_CHARACTERS] for name in names[:_SHOWN_NAMES])
            more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
            raise DataError(
                f"{uri} has no column {', '.join(missing)}; its columns are {there}{more}"
            )
        return self.all & set(names)

    def _meant(self, setting: str, column: str, names: Sequence[str]) -> str:
        """Say which column of a file was probably meant, and what to set."""
        others = _alike((column, *_OTHER_NAMES.get(setting, ())), names)
        if others:
            return f" (did you mean {others[0]!r}? Set {self.section}.{setting}={others[0]})"
        guess = nearest(column, names)
        return f" ({guess.strip()} Set {self.section}.{setting} to one of its columns)".replace(
            "( ", "("
        )


def columns_of(config: SourceConfig) -> Columns:
    """Return the columns that the `acquire` section names."""
    settings = {name: str(getattr(config, name)) for name in (*_OTHER_NAMES, *_OPTIONAL)}
    settings |= {f"caption_columns.{name}": col for name, col in config.caption_columns.items()}
    settings |= {f"keep_columns.{n}": col for n, col in enumerate(config.keep_columns)}
    optional = [name for name, column in _OPTIONAL.items() if settings[name] == column]
    return Columns("acquire", settings, optional, config.url_column)


def _alike(wanted: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the names that are one of those wanted but for case, spaces and quotes; the first wanted comes first."""
    plain = {name.strip(" \"'\ufeff").casefold(): name for name in reversed(names)}
    return [plain[name.casefold()] for name in wanted if name.casefold() in plain]
