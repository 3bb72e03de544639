"""The `acquire` section of a recipe."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from neuclip.egress.config import EgressConfig
from neuclip.foundation.config import Section, unkeyed
from neuclip.stages.scale import ScaleConfig
from neuclip.storage.places import Place

STAGE_VERSION = 3
"""Raised when the stage's output for the same recipe and inputs changes."""

DELIMITED_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
TABLE_SUFFIXES = (".parquet", *DELIMITED_SUFFIXES, *_JSON_SUFFIXES)


class RefuseConfig(Section):
    """Who asked not to be fetched, or must not be."""

    hosts: list[str] = Field(
        default_factory=list[str], description="host names; those below them are refused too"
    )
    urls: list[str] = Field(
        default_factory=list[str], description="URLs; http and https are the same"
    )
    uids: list[str] = Field(default_factory=list[str], description="uids of pairs")


class AcquireConfig(Section):
    """Which pairs to acquire, and how: a URL table to fetch, or shards that others fetched."""

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
    image_size: int = Field(
        default=256,
        ge=16,
        le=4096,
        description="side in pixels that images are resized to, see resize_mode",
    )
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        default="keep_ratio",
        description="img2dataset's resize mode; keep_ratio makes the smallest side image_size",
    )
    encode_format: Literal["jpg", "png", "webp"] = Field(
        default="jpg", description="format images are stored in"
    )
    encode_quality: int = Field(
        default=95,
        ge=0,
        le=100,
        description="quality of jpg and webp, compression level 0-9 of png",
    )
    partition_rows: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="rows of the table in one partition and raw shard",
    )
    max_failed_share: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="share of rows that may fail before the stage is failed as a whole",
    )
    egress: EgressConfig = Field(
        default=EgressConfig(), description="what may be fetched from the web, and how gently"
    )
    refuse: RefuseConfig = Field(
        default=RefuseConfig(), description="kill list: pairs that are not fetched"
    )
    stall_s: int = unkeyed(
        300, ge=10, description="seconds without any progress after which the download is ended"
    )
    longest_s: int | None = unkeyed(
        None,
        ge=10,
        description="seconds after which the download is ended although it goes on; finished partitions are kept",
    )
    worker_memory_mib: int = unkeyed(
        3_000, ge=500, description="resident MiB of one process above which the download is ended"
    )
    processes: int = unkeyed(2, ge=1, le=256, description="downloading processes")
    threads: int = unkeyed(32, ge=1, le=1024, description="downloading threads in each process")

    scale: ScaleConfig = unkeyed(
        ScaleConfig(), description="machines or processes that share the partitions out"
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

    @model_validator(mode="after")
    def _check_png_quality(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError(
                f"encode_quality of png is its compression level 0 to 9, found {self.encode_quality}; set 9"
            )
        return self
