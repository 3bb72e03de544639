"""The `text_encoder` section of a recipe."""

from typing import Any, Literal

from pydantic import Field

from neuclip.foundation.config import Section, keyed_if_set, unkeyed
from neuclip.stages.scale import ScaleConfig
from neuclip.storage.places import Place
from neuclip.text_encoder.tune_config import TuneConfig

STAGE_VERSION = 1
"""Raised when the stage's output for the same recipe and inputs changes."""
FEATURES_VERSION = 1
"""Raised when the same encoder makes other features of the same texts."""

Pooling = Literal["mean", "last"]
Direction = Literal["both", "causal"]
Precision = Literal["float32", "bf16"]


class EncoderSettings(Section):
    """How a language model's states become one feature of a text."""

    pooling: Pooling = Field(
        default="mean",
        description="mean: over the states of the text's tokens, and of those the tokenizer puts after it; last: the "
        "state of the last token",
    )
    direction: Direction = Field(
        default="both",
        description="both: a token sees the whole text; causal: it sees those before it, as a language model was "
        "trained to",
    )
    max_tokens: int = Field(
        default=512,
        ge=4,
        le=131_072,
        description="most tokens of a text, those of the tokenizer included",
    )
    precision: Precision = Field(default="bf16", description="of the encoder's weights")


class TextEncoderConfig(EncoderSettings):
    """A language model that encodes texts once, for a text tower of kind `features` to train on."""

    folder: Place = unkeyed(  # its content counts, not where it lies
        ...,
        description="local folder or URI with config.json, *.safetensors and a fast tokenizer, as `save_pretrained` "
        "writes them; nothing is looked up elsewhere",
    )
    tune: TuneConfig | None = keyed_if_set(
        default=None,
        description="tunes the model on captions before it encodes any; null takes it as it is",
    )
    sources: list[str] | None = keyed_if_set(
        default=None,
        description="caption sources that are encoded beside `alt`; null is those that train.captions names",
    )
    max_truncated: float = unkeyed(
        0.01,
        ge=0,
        le=1,
        description="share of the texts that may be longer than max_tokens; they are cut and counted, and if there are "
        "more the stage ends",
    )
    batch_tokens: int = unkeyed(
        16_384, ge=64, description="tokens encoded at once on a GPU; a CPU encodes text by text"
    )
    tflops: float | None = unkeyed(
        None,
        gt=0,
        description="what a device achieves, 1e12 FLOP/s, for the hours that `plan` tells; null tells none",
    )
    price_per_hour: float | None = unkeyed(
        None, ge=0, description="of a device, in any currency, for the money that `plan` tells"
    )
    scale: ScaleConfig = unkeyed(
        ScaleConfig(), description="who encodes; a part is the texts of one source in one partition"
    )

    def encoding(self, trained_on: list[str], *, width: int | None) -> "EncodingConfig":
        """Return the section as the stage reads it.

        Args:
            trained_on: caption sources that training names.
            width: of the features that the text tower reads.
        """
        named = trained_on if self.sources is None else self.sources
        fields: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        fields |= {"sources": list(dict.fromkeys(["alt", *named])), "expected": width}
        return EncodingConfig.model_construct(**fields)


class EncodingConfig(TextEncoderConfig):
    """The section with what training asks of it: all sources that are encoded; `alt` stands in for others."""

    expected: int | None = unkeyed(None, description="width of the features that are read")
