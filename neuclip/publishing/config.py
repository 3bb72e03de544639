"""The `publish` section of a recipe."""

from pydantic import Field

from neuclip.foundation.config import Section

STAGE_VERSION = 2
"""Raised when the stage's output for the same recipe and inputs changes."""


class PublishConfig(Section):
    """What the model folder and its card say."""

    name: str = Field(
        default="clip", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the model"
    )
    license: str = Field(default="unknown", description="licence identifier for the model card")
    description: str = Field(default="", description="what the model is for, for the model card")
    sample_grid: int = Field(
        default=24, ge=0, le=400, description="samples with captions that the report shows"
    )
