"""The `shard` section of a recipe."""

from pydantic import Field

from neuclip.foundation.config import Section, unkeyed
from neuclip.stages.scale import ScaleConfig

STAGE_VERSION = 3
"""Raised when the stage's output for the same recipe and inputs changes."""


class ShardConfig(Section):
    """How kept pairs are packed for training."""

    samples_per_shard: int = Field(
        default=10_000, ge=1, le=1_000_000, description="samples in one training shard"
    )
    pairs_per_part: int = Field(
        default=200_000,
        ge=1,
        description="pairs that are packed and committed together: what a run that is killed packs again, and what "
        "the local disk holds of shards that go to object storage",
    )
    selection_share: float = Field(
        default=0.02,
        gt=0,
        lt=0.5,
        description="share of the kept pairs that is held out for choosing a checkpoint, by hash of the uid",
    )
    max_undecodable_share: float = Field(
        default=0.01, ge=0, le=1, description="share of images that may turn out unreadable here"
    )
    scale: ScaleConfig = unkeyed(
        ScaleConfig(), description="who packs; a part is pairs_per_part pairs"
    )
