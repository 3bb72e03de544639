"""The `select` section of a recipe."""

from typing import Literal

from pydantic import Field

from neuclip.foundation.config import Section, keyed_if_set, unkeyed

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
    average: list[Literal["uniform_last", "greedy"]] = keyed_if_set(
        [],
        description="means of checkpoints that are tried too: of the last ones, or of those that each make the mean no "
        "worse. The best is chosen on every second held-out pair, and published only if it is better on the others",
    )
    average_last: int = keyed_if_set(
        default=5, ge=2, le=1000, description="how many checkpoints `uniform_last` is of"
    )
    batch_size: int = unkeyed(256, ge=1, le=65536, description="images encoded at once")
