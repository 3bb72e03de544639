"""The `text_encoder.tune` section of a recipe."""

from typing import Self

from pydantic import Field, model_validator

from neuclip.foundation.config import Section, unkeyed

TO_LONG = "Given a short caption of an image, find a detailed caption of the same image: "
TO_SHORT = "Given a detailed caption of an image, find a short caption of the same image: "


class LoraConfig(Section):
    """Low-rank matrices beside the weights, which stay as they are (arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1, le=1024, description="of each pair of matrices")
    alpha: float = Field(default=32.0, gt=0, description="they are added times alpha / rank")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="of what they read")


class WarmUpConfig(Section):
    """Masked next-token prediction before the contrastive part, so that a causal model learns to look both ways."""

    steps: int = Field(default=1000, ge=1, description="updates")
    batch: int = Field(default=32, ge=2, description="texts in an update")
    share: float = Field(default=0.2, gt=0, lt=1, description="of the tokens that are hidden")
    lr: float = Field(default=5e-5, gt=0, description="peak learning rate")
    blank: str = Field(default="_", min_length=1, description="text of the token that hides others")


class TuneConfig(Section):
    """Caption-contrastive tuning: two captions of an image are to have like features (LLM2CLIP, arXiv 2411.04997).

    A pair of the table with a text of both sources gives one triple an epoch: a query, short or long by a coin; the
    other one of the two; and another image's caption of the same kind as that.
    """

    short: str = Field(default="alt", description="caption source of short texts")
    long: str = Field(default="long", description="caption source of long texts")
    steps: int = Field(default=10_000, ge=1, description="updates")
    batch: int = Field(default=512, ge=2, description="triples in an update")
    micro_batch: int | None = Field(
        default=None, ge=1, description="triples that are encoded with a graph at once; null is all"
    )
    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    warmup_steps: int = Field(default=300, ge=0, description="steps of linear warm-up")
    temperature: float = Field(default=0.02, gt=0, description="of the loss")
    hard_negatives: bool = Field(
        default=True, description="whether the third texts of all triples are candidates too"
    )
    to_long: str = Field(default=TO_LONG, description="instruction before a short query")
    to_short: str = Field(default=TO_SHORT, description="instruction before a long query")
    lora: LoraConfig = Field(default=LoraConfig(), description="what is trained")
    warm_up: WarmUpConfig | None = Field(default=None, description="null is none")
    held_out: int = Field(
        default=1000,
        ge=2,
        le=100_000,
        description="pairs that are kept out, to measure retrieval of captions by captions before and after",
    )
    save_every_steps: int = unkeyed(500, ge=1, description="steps between states to go on from")

    @model_validator(mode="after")
    def _two_sources(self) -> Self:
        if self.short == self.long:
            raise ValueError(
                f"short and long are both {self.short!r}; name two caption sources of the same images"
            )
        return self

    @property
    def instructions(self) -> dict[str, str]:
        """Return what stands before a query, by the kind of text that is looked for."""
        return {"long": self.to_long, "short": self.to_short}
