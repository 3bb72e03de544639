"""The `select` section of a recipe."""

from typing import Literal

from pydantic import Field

from neuclip.foundation.config import Section, unkeyed

STAGE_VERSION = 2
"""Raised when the stage's output for the same recipe and inputs changes."""


class SelectConfig(Section):
    """How the checkpoint is chosen on the held-out selection split."""

    metric: Literal[
        "mean_recall_at_1", "image_to_text_recall_at_1", "text_to_image_recall_at_1"
    ] = Field(
        default="mean_recall_at_1",
        description="what the chosen checkpoint is best in; ties go to the later checkpoint",
    )
    max_samples: int = Field(
        default=5_000,
        ge=2,
        le=100_000,
        description="most samples of the selection split that are scored",
    )
    batch_size: int = unkeyed(256, ge=1, le=65536, description="images encoded at once")
