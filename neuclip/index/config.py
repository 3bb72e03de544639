"""The `index` section of a recipe."""

from typing import Self

from pydantic import Field, model_validator

from neuclip.curate.scores import ModelScore
from neuclip.foundation.config import Section, unkeyed
from neuclip.stages.scale import ScaleConfig

STAGE_VERSION = 4
"""Raised when the stage's output for the same recipe and inputs changes."""


class IndexConfig(Section):
    """What is known of a training sample besides where it lies."""

    features: ModelScore | None = Field(
        default=None,
        description="a model whose features of image and alt text fill table `features`; null leaves it empty",
    )
    clusters: int | None = Field(
        default=None,
        ge=2,
        description="k-means clusters of the image features in table `clusters`, made anew when samples are added; "
        "null makes none",
    )

    scale: ScaleConfig = unkeyed(
        ScaleConfig(), description="who makes features; a part is those of one part of the shards"
    )

    @model_validator(mode="after")
    def _clusters_need_features(self) -> Self:
        if self.clusters is not None and self.features is None:
            raise ValueError(
                f"clusters {self.clusters} are made of features; set features.model, or clusters to null"
            )
        return self
