"""Where pairs come from and what their columns are called: the part of the `acquire` section that reads a table."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from neuclip.foundation.config import Section
from neuclip.storage.places import Place

DELIMITED_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
TABLE_SUFFIXES = (".parquet", *DELIMITED_SUFFIXES, *_JSON_SUFFIXES)


class SourceConfig(Section):
    """Which pairs there are: a URL table, or the tables of shards that others fetched, and the columns that count."""

    table: Place | None = Field(
        default=None,
        description="URL table: a .parquet, .csv, .tsv, .jsonl or .ndjson file, all but the first also with .gz, or a "
        "folder of them; any URI",
        json_schema_extra={"keyed": False},  # its content counts, not where it lies
    )
    adopt: Place | None = Field(
        default=None,
        description="instead of table: folder of ready-made shards, output of img2dataset or DataComp; any URI. "
        "They stay where they are",
        json_schema_extra={"keyed": False},  # likewise
    )
    columns: list[str] | None = Field(
        default=None,
        min_length=2,
        description="names of the columns in order, for CSV and TSV files without a header line; CC3M's are "
        "[caption, url]",
    )
    adopted_caption: Literal["txt", "column"] = Field(
        default="txt",
        description="where the alt text of an adopted pair stands: in the .txt member of the tar, which open_clip's "
        "trainer reads, or, where there is none, in caption_column; column: in caption_column of table or JSON alone",
    )
    url_column: str = Field(default="url", description="column with the image URL")
    caption_column: str = Field(
        default="caption", description="column with the alt text; it becomes caption source `alt`"
    )
    uid_column: str = Field(
        default="uid",
        description="column with 32 hex digits; where the table has none, the hash of url and caption",
    )
    sha256_column: str = Field(
        default="sha256",
        description="column with the hex sha256 that the downloaded bytes must have; used where the table has it",
    )
    caption_columns: dict[str, str] = Field(
        default_factory=dict,
        description="further caption sources: source name -> column with a text or a list of texts",
    )
    keep_columns: list[str] = Field(
        default_factory=list[str],
        description="columns of numbers, texts or flags that travel with a pair for the rules of curate: scores, tags. "
        "Another choice fetches nothing again",
    )
    on_duplicate_uid: Literal["error", "keep_first"] = Field(
        default="error", description="what to do with a uid that comes twice"
    )

    def keyed(self) -> dict[str, Any]:
        """Return what counts: how captions are adopted only if they are."""
        keyed = super().keyed()
        if self.adopt is None:
            del keyed["adopted_caption"]
        return keyed

    @property
    def source(self) -> str:
        """Where the pairs come from."""
        return self.table or self.adopt or ""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        given = [name for name in ("table", "adopt") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "expected one of table (URLs to fetch) and adopt (shards that are there), found "
                f"{'both' if given else 'neither'}; give one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if self.columns is not None and self.adopt is not None:
            raise ValueError("columns is for a table, found it beside adopt; leave it out")
        for name in self.columns or ():
            if "://" in name or not name or (self.columns or []).count(name) > 1:
                raise ValueError(
                    f"expected a name for each of columns, found {name!r}; give every column another name"
                )
        return self
