"""The `caption` section of a recipe."""

from pydantic import Field

from neuclip.foundation.config import Section

STAGE_VERSION = 1
"""Raised when the stage's output for the same recipe and inputs changes."""


class CaptionConfig(Section):
    """Which caption sources travel with a sample."""

    sources: list[str] | None = Field(
        default=None,
        description="caption sources to pass on, `alt` first where it is named; null passes on all that the input has",
    )
    max_per_source: int = Field(
        default=16,
        ge=1,
        le=1000,
        description="most captions of one source for a sample, the first ones are kept",
    )
