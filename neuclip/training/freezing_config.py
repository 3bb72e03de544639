"""The `train.freeze` section of a recipe."""

from typing import Literal, Self

from pydantic import Field, model_validator

from neuclip.foundation.config import Section


class LastBlocks(Section):
    """All of a tower but its end."""

    all_but_last: int = Field(
        ge=1,
        description="blocks that are trained, counted from the tower's end, with the norm and projection after them",
    )


class FreezeConfig(Section):
    """What is left as it was at the start."""

    image: Literal["all"] | LastBlocks | None = Field(
        default=None, description="all of the image tower, or {all_but_last: n}; null is nothing"
    )
    text: Literal["all"] | LastBlocks | None = Field(
        default=None, description="all of the text tower, or {all_but_last: n}; null is nothing"
    )

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.image is None and self.text is None:
            raise ValueError("freeze names no tower; give image or text, or set freeze to null")
        if self.image == self.text == "all":
            raise ValueError(
                "freeze leaves nothing to train: image and text are both `all`; leave one of them out or use "
                "{all_but_last: n}, or epochs: 0 to publish train.initial as it is"
            )
        return self
