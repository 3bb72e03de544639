"""The `train.collapse` section of a recipe."""

from pydantic import Field

from neuclip.foundation.config import Section


class CollapseConfig(Section):
    """What counts as a collapse of the features, and what it does."""

    lines: int = Field(
        default=10, ge=1, description="lines of metrics in a row that show a sign of it"
    )
    least_spread: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="standard deviation of unit features, from 0 (all the same) to 1, below which is a sign",
    )
    least_entropy: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="entropy of which neighbours a batch has, as a share of its most, below which is a sign",
    )
    loss_tolerance: float = Field(
        default=0.001,
        ge=0,
        description="how near InfoNCE's loss is to ln of the batch, as a share of it, that it is a sign",
    )
    stop: bool = Field(
        default=False, description="whether the run saves and stops, in place of a warning alone"
    )
