"""The `curate` section of a recipe."""

from pydantic import Field, model_validator

from neuclip.foundation.config import Section

STAGE_VERSION = 1
"""Raised when the stage's output for the same recipe and inputs changes."""


class CurateConfig(Section):
    """Rules for pairs; null turns a rule off. They are tried in this order, the first that fails names the reason."""

    min_chars: int | None = Field(default=3, ge=1, description="least characters of the alt text")
    max_chars: int | None = Field(default=None, ge=1, description="most characters of the alt text")
    min_words: int | None = Field(default=1, ge=1, description="least words of the alt text")
    max_words: int | None = Field(default=None, ge=1, description="most words of the alt text")
    min_side_px: int | None = Field(
        default=None, ge=1, description="least pixels of the shorter side of the original image"
    )
    max_aspect_ratio: float | None = Field(
        default=None,
        ge=1,
        description="longest side over shortest side of the original image, at most",
    )
    drop_duplicate_images: bool = Field(
        default=True,
        description="of several images with the same bytes keep the one with the longest alt text, then the lowest uid",
    )
    drop_duplicate_pairs: bool = Field(
        default=True,
        description="of several pairs with the same URL and alt text keep the lowest uid",
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "CurateConfig":
        for low, high in (("min_chars", "max_chars"), ("min_words", "max_words")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(
                    f"{low} {least} is above {high} {most}, so no caption could be kept"
                )
        return self
