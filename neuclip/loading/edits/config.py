"""Recipe sections of the edits of images."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from neuclip.foundation.config import Section

Share = Annotated[float, Field(ge=0, le=1)]


class AugmentConfig(Section):
    """Strong augmentation after the crop; the defaults are MoCo v2's (arXiv 2003.04297), which DeCLIP takes."""

    jitter: tuple[float, float, float, float] = Field(
        default=(0.4, 0.4, 0.4, 0.1),
        description="most change of brightness, contrast, saturation (factors 1 - x to 1 + x) and hue (-x to x of the "
        "circle)",
    )
    jitter_share: Share = Field(default=0.8, description="share of images whose colours change")
    grey_share: Share = Field(default=0.2, description="share of images that lose their colours")
    blur_sigma: tuple[float, float] = Field(
        default=(0.1, 2.0), description="least and most standard deviation of the blur, in pixels"
    )
    blur_share: Share = Field(default=0.5, description="share of images that are blurred")
    flip_share: Share = Field(default=0.5, description="share of images that are mirrored")

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        *factors, hue = self.jitter
        if not (all(0 <= most <= 1 for most in factors) and 0 <= hue <= 0.5):
            raise ValueError(
                f"jitter {list(self.jitter)} has three factors in [0, 1] and a hue in [0, 0.5]"
            )
        low, high = self.blur_sigma
        if not 0 < low <= high:
            raise ValueError(f"blur_sigma {[low, high]} is not an increasing pair above 0")
        return self
