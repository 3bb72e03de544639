"""Recipe sections of the views of a sample that are there beside `main`."""

from typing import Literal

from pydantic import Field

from neuclip.foundation.config import Section, keyed_if_set
from neuclip.loading.edits.config import AugmentConfig
from neuclip.loading.policies import ViewCaptions


class ImageViewConfig(Section):
    """A further view of each image, for losses that read it."""

    crop_scale: tuple[float, float] | None = Field(
        default=None,
        description="least and most share of the image area a crop covers; null is as `main`",
    )
    augment: AugmentConfig | Literal["none"] | None = keyed_if_set(
        default=None,
        description="strong augmentation after the crop; {} is MoCo v2's, none is none, null is as `main`",
    )


class TextViewConfig(Section):
    """A further view of each sample's texts, for losses that read it."""

    captions: ViewCaptions | None = Field(
        default=None,
        description="which of its texts a sample shows; null is the policy of `main`, by draws of its own",
    )
