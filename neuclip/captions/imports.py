"""Caption sources from files that others published, joined to pairs by key and never by position alone."""

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from neuclip.foundation.config import Section
from neuclip.stages.keys import fingerprint
from neuclip.storage.places import Place
from neuclip.table.config import TABLE_SUFFIXES

LINES_SUFFIXES = (".txt", ".txt.gz")
JSON_SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")

_UNKEYED: dict[str, JsonValue] = {"keyed": False}
"""Of a place: its content counts, not where it lies."""
_TABLE = "a .parquet, .csv, .tsv, .jsonl or .ndjson file, all but the first also with .gz, or a folder of them; any URI"
_KEY = (
    "what a row is joined to pairs by: url, uid, alt (the text itself), or a column of acquire.keep_columns; each pair "
    "with that key gets the texts"
)
_COLUMNS = "names of the columns in order, for CSV and TSV files without a header line"


class ImportedSource(Section):
    """A source whose texts others made."""

    source: str = Field(
        pattern=r"^[a-z][a-z0-9_]*$", description="name of the new source, as training weighs it"
    )
    key: str = Field(default="url", min_length=1, description=_KEY)

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Return the fingerprints of the files, by name."""


class KeyedTable(ImportedSource):
    """A source of which a table has the keys."""

    table: Place = Field(description=_TABLE, json_schema_extra=_UNKEYED)
    columns: list[str] | None = Field(default=None, min_length=2, description=_COLUMNS)
    key_column: str | None = Field(
        default=None, description="the column with the key, where it is not called as `key` says"
    )

    @property
    def keys_in(self) -> str:
        """The column with the key."""
        return self.key_column or self.key


class ImportedLines(KeyedTable):
    """Text files with a line for each row of a table, as LaCLIP (arXiv 2305.20088) publishes its rewrites.

    A row counts if its caption is the text of the pair that its key names, so that a table that is shifted is refused;
    files must have a line for each row, and lines that fit the captions of other rows are refused.
    """

    kind: Literal["lines"] = "lines"
    table: Place = Field(
        description=f"the keys and captions that the lines were written for: {_TABLE}",
        json_schema_extra=_UNKEYED,
    )
    caption_column: str = Field(
        default="caption", description="the column with the caption, equal to the pair's alt text"
    )
    files: list[Place] = Field(
        min_length=1,
        description="text files (.txt, .txt.gz), or folders of them, each with a line for each row in the order of the "
        "table; a file is one text of each pair",
        json_schema_extra=_UNKEYED,
    )

    @property
    def keys_in(self) -> str:
        """The column with the key; of alt texts that with the captions."""
        return self.key_column or (self.caption_column if self.key == "alt" else self.key)

    def inputs(self) -> dict[str, str]:
        """Return the fingerprints of the table and of the files in order."""
        files = [fingerprint(uri, LINES_SUFFIXES) for uri in self.files]
        return {
            "table": fingerprint(self.table, TABLE_SUFFIXES),
            **{f"lines {number}": tag for number, tag in enumerate(files)},
        }


class ImportedJson(ImportedSource):
    """JSON files as VeCLIP (arXiv 2310.07699) publishes its captions: one object, URL -> text.

    A list of objects with a key and a text each, and one such object a line, are read too.
    """

    kind: Literal["json"] = "json"
    files: Place = Field(
        description="a .json, .jsonl or .ndjson file, also with .gz, or a folder of them; any URI",
        json_schema_extra=_UNKEYED,
    )
    key_field: str | None = Field(
        default=None,
        description="field with the key in each object, where it is not called as `key` says",
    )
    text_field: str = Field(
        default="caption", description="field with a text or a list of texts in each object"
    )

    @property
    def keys_in(self) -> str:
        """The field with the key."""
        return self.key_field or self.key

    def inputs(self) -> dict[str, str]:
        """Return the fingerprint of the files."""
        return {"files": fingerprint(self.files, JSON_SUFFIXES)}


class ImportedTable(KeyedTable):
    """A table with a key and texts."""

    kind: Literal["table"] = "table"
    text_columns: list[str] = Field(
        default=["caption"],
        min_length=1,
        description="columns with a text or a list of texts, in order",
    )

    def inputs(self) -> dict[str, str]:
        """Return the fingerprint of the table."""
        return {"table": fingerprint(self.table, TABLE_SUFFIXES)}


Imported = Annotated[ImportedLines | ImportedJson | ImportedTable, Field(discriminator="kind")]


def fingerprints(imports: list[ImportedLines | ImportedJson | ImportedTable]) -> dict[str, str]:
    """Return the fingerprints of all files that are imported, by name."""
    return {
        f"import {one.source} {name}": tag for one in imports for name, tag in one.inputs().items()
    }
