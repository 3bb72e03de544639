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
    most_loss: float = Field(
        default=0.99,
        gt=0,
        description="InfoNCE's loss, as a share of ln of the batch, above which is a sign",
    )
    stop: bool = Field(
        default=False, description="whether the run saves and stops, in place of a warning alone"
    )
