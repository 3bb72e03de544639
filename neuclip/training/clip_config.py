"""The `train.grad_clip` section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from neuclip.foundation.config import Section


class NormClip(Section):
    """A norm that is the same in every update."""

    kind: Literal["norm"] = Field(default="norm", description="which limit this section is of")
    norm: float = Field(
        default=1.0, gt=0, description="largest norm of the encoders' gradient, nats per anchor"
    )


class MedianClip(Section):
    """A norm that follows the gradients themselves, so that the unit of the loss has no part in it."""

    kind: Literal["median"] = Field(default="median", description="which limit this section is of")
    times: float = Field(
        default=2.0,
        gt=0,
        description="largest norm of the encoders' gradient over the median of the last 64 updates' norms",
    )


GradClip = Annotated[NormClip | MedianClip, Field(discriminator="kind")]
