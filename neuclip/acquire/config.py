"""The `acquire` section of a recipe."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from neuclip.acquired.refusals import Refusals
from neuclip.egress.config import EgressConfig
from neuclip.foundation.config import Section, unkeyed
from neuclip.stages.scale import ScaleConfig
from neuclip.table.config import SourceConfig

STAGE_VERSION = 3
"""Raised when the stage's output for the same recipe and inputs changes."""


class RefuseConfig(Section):
    """Who asked not to be fetched, or must not be."""

    hosts: list[str] = Field(
        default_factory=list[str], description="host names; those below them are refused too"
    )
    urls: list[str] = Field(
        default_factory=list[str], description="URLs; http and https are the same"
    )
    uids: list[str] = Field(default_factory=list[str], description="uids of pairs")

    @property
    def refusals(self) -> Refusals:
        """The same as a list to look pairs up in."""
        return Refusals.of(self.uids, self.urls, self.hosts)


_SHAPES_ROWS_ONLY = {
    *SourceConfig.model_fields,
    "partition_rows",
    "max_failed_share",
    "refuse",
}
"""Settings that a partition's key takes in by the rows they lead to, or not at all."""


class AcquireConfig(SourceConfig):
    """Which pairs to acquire, and how: a URL table to fetch, or shards that others fetched."""

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

    def fetch_settings(self) -> dict[str, Any]:
        """Return the settings that can change what becomes of a planned row."""
        return {name: v for name, v in self.keyed().items() if name not in _SHAPES_ROWS_ONLY}

    @model_validator(mode="after")
    def _check_png_quality(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError(
                f"encode_quality of png is its compression level 0 to 9, found {self.encode_quality}; set 9"
            )
        return self
