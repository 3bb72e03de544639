"""The `train.loader` section of a recipe."""

from pydantic import Field

from neuclip.foundation.config import Section, unkeyed


class LoaderConfig(Section):
    """How samples get from the shards to the device."""

    max_corrupt_share: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="share of samples that may not decode before the run stops",
    )
    workers: int = unkeyed(
        2, ge=0, le=256, description="loading workers for each process; 0 loads in line"
    )
