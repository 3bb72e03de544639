"""The `evaluate` section of a recipe."""

from pydantic import Field

from neuclip.foundation.config import Section, unkeyed
from neuclip.stages.scale import ScaleConfig
from neuclip.storage.places import Place

STAGE_VERSION = 4
"""Raised when the stage's output for the same recipe and inputs changes."""


class EvaluateConfig(Section):
    """Which sets the chosen model is scored on."""

    sets: list[Place] = Field(
        default_factory=list[str],
        description="evaluation sets: folders in the `wds_*` layout, any URI; docs/evaluation.md has their kinds",
        json_schema_extra={"keyed": False},  # their content counts, not where they lie
    )
    batch_size: int = unkeyed(256, ge=1, le=65536, description="images encoded at once")
    scale: ScaleConfig = unkeyed(ScaleConfig(), description="who scores; a part is one set")
