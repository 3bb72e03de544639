"""Recipe sections of the objectives."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neuclip.foundation.config import Section


class OpenClipConfig(Section):
    """InfoNCE over the global batch, as in CLIP 2021."""

    name: Literal["openclip"] = Field(
        default="openclip", description="Which objective this section is of."
    )
    temperature_init: float = Field(
        default=0.07, ge=0.01, le=1, description="Temperature at the start, unitless, in [0.01, 1]."
    )
    temperature_lr: float | None = Field(
        default=None,
        ge=0,
        description="Learning rate of log(1/temperature), at least 0; none = the encoders' rate.",
    )
    learn_temperature: bool = Field(
        default=True, description="Whether the temperature is learned or stays at its start."
    )


class NeuClipConfig(Section):
    """The NeuCLIP objective with its normalizer network (arXiv 2511.08417)."""

    name: Literal["neuclip"] = Field(
        default="neuclip", description="Which objective this section is of."
    )
    num_prototypes: int = Field(
        default=4096, ge=2, description="Prototypes a side (m), a count, at least 2."
    )
    inner_steps: int = Field(
        default=10,
        ge=0,
        description="Normalizer network updates a step (T_u), a count, at least 0.",
    )
    restart_every: int = Field(
        default=500, ge=1, description="Steps between restarts of the prototypes (T_r), at least 1."
    )
    inner_lr: float = Field(
        default=0.003,
        gt=0,
        description="AdaGrad learning rate of the prototypes, above 0; the first update turns a "
        "unit prototype by about inner_lr * sqrt(feature width).",
    )
    eps: float = Field(
        default=1e-14,
        ge=0,
        lt=1,
        description="Added to a mean of exponentials inside the log, unitless, in [0, 1).",
    )
    rho: float = Field(
        default=6.5,
        ge=0,
        description="Pull towards a low temperature, nats, at least 0: the temperature settles "
        "where the mean KL from uniform of the contrast weights equals rho.",
    )
    alpha_mode: Literal["detached", "through"] = Field(
        default="detached",
        description="Whether the encoders' gradient stops at the predicted log-normalizers "
        "or flows through them.",
    )
    ratio_clamp: float | None = Field(
        default=20.0,
        gt=1,
        description="Largest ratio of a batch normalizer to its prediction, unitless, above 1; "
        "none = no limit.",
    )
    mask_own_pair: bool = Field(
        default=True,
        description="Whether an anchor ignores prototypes that came from its own pair.",
    )
    temperature_init: float = Field(
        default=0.07,
        gt=0,
        description="Temperature at the start, unitless, between its min and max.",
    )
    temperature_min: float = Field(
        default=0.01, gt=0, description="Lowest temperature allowed, unitless, above 0."
    )
    temperature_max: float = Field(
        default=1.0, gt=0, description="Highest temperature allowed, unitless, above 0."
    )
    temperature_lr: float | None = Field(
        default=None,
        ge=0,
        description="Learning rate of log(1/temperature), at least 0; none = the encoders' rate.",
    )

    @model_validator(mode="after")
    def _temperature_in_range(self) -> "NeuClipConfig":
        low, start, high = self.temperature_min, self.temperature_init, self.temperature_max
        if not low <= start <= high:
            raise ValueError(
                f"temperature_init {start} is not between temperature_min {low} "
                f"and temperature_max {high}"
            )
        return self


ObjectiveConfig = Annotated[OpenClipConfig | NeuClipConfig, Field(discriminator="name")]
