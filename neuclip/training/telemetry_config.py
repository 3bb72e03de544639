"""Where a run's numbers go."""

from typing import Literal, Self

from pydantic import Field, model_validator

from neuclip.foundation.config import Section


class TelemetryConfig(Section):
    """Where a run's numbers go beside its own folder, and what it may cost. Changes no result."""

    trackers: tuple[Literal["wandb", "mlflow"], ...] = Field(
        default=(),
        description="further places for the numbers, set up by their own environment variables; "
        "metrics.jsonl and TensorBoard are always written",
    )
    project: str = Field(
        default="neuclip", min_length=1, description="name the trackers file the run under"
    )
    peak_tflops: float | None = Field(
        default=None,
        gt=0,
        description="what one device can do at the run's precision, 1e12 FLOP/s, for the share used (MFU); "
        "null takes it from the device's name where it is known",
    )
    price_per_hour: float | None = Field(
        default=None, ge=0, description="price of one device for an hour, in any currency"
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        description="what all devices of the run may cost; the run saves and stops when it is used up",
    )

    @model_validator(mode="after")
    def _budget_has_a_price(self) -> Self:
        if self.budget is not None and not self.price_per_hour:
            raise ValueError("a budget needs price_per_hour")
        return self
