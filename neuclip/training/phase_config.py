"""Recipe section of a part of the run."""

from typing import Literal

from pydantic import Field

from neuclip.foundation.config import Section, keyed_if_set
from neuclip.loading.edits.config import AugmentConfig
from neuclip.loading.policies import OwnCaptions
from neuclip.tokens.config import ImageTokensConfig, TextTokensConfig


class PhaseConfig(Section):
    """A part of the run with settings of its own; what is null is as in the flat field of that name."""

    epochs: float = Field(
        gt=0, description="length of the phase in passes over the training samples"
    )
    image_px: int | None = Field(default=None, ge=1, description="side of the images in pixels")
    context_length: int | None = Field(default=None, ge=3, description="tokens of a text")
    image_tokens: ImageTokensConfig | None = keyed_if_set(
        default=None, description="which patches of an image the tower reads"
    )
    text_tokens: TextTokensConfig | None = Field(
        default=None, description="which tokens of a text that is too long it keeps"
    )
    positions: Literal["interpolate", "regenerate"] | None = keyed_if_set(
        default=None, description="how positions come from the phase before"
    )
    learn_positions: bool | None = keyed_if_set(
        default=None, description="whether fixed positions of images are trained"
    )
    crop_scale: tuple[float, float] | None = Field(
        default=None, description="least and most share of the image area a crop covers"
    )
    augment: AugmentConfig | None = keyed_if_set(
        default=None, description="strong augmentation after the crop"
    )
    captions: OwnCaptions | None = keyed_if_set(
        default=None, description="which of its texts a sample shows at each visit"
    )
    global_batch: int | None = Field(default=None, ge=2, description="pairs in an update")
    micro_batch: int | None = Field(
        default=None, ge=1, description="pairs that a process encodes with a graph at once"
    )
    lr: float | None = Field(default=None, gt=0, description="peak learning rate of the phase")
    min_lr: float | None = Field(default=None, ge=0, description="rate that the schedule ends at")
    schedule: Literal["cosine", "constant"] | None = Field(
        default=None, description="the rate after the phase's warm-up"
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="steps of the phase's linear warm-up"
    )
    cooldown_steps: int | None = Field(
        default=None, ge=0, description="last steps of the phase in which a constant rate falls"
    )
