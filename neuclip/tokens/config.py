"""Recipe sections of the policies for tokens."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from neuclip.foundation.config import Section
from neuclip.storage.places import Place


def _as_written(value: Any) -> Any:  # noqa: ANN401  # what stands in a recipe
    """Take 0.3 as 3/10, not as the nearest binary number."""
    return str(value) if isinstance(value, float) else value


Share = Annotated[Fraction, BeforeValidator(_as_written)]


class _Keeping(Section):
    """Fields of policies that keep a share of the patches."""

    keep: Share = Field(
        gt=0, le=1, description="share of the patches that is kept, an exact fraction such as 1/4"
    )
    rounding: Literal["nearest", "floor"] = Field(
        default="nearest",
        description="how share times patches becomes a number of patches; floor is what CLIPA's code does",
    )


class ResizeConfig(Section):
    """All patches of the image, of which a smaller `image_px` has fewer: how CLIPA's models are trained."""

    name: Literal["resize"] = Field(default="resize", description="which policy this section is of")


class RandomPatchesConfig(_Keeping):
    """Patches drawn for each visit, any with the same chance and without replacement."""

    name: Literal["random"] = Field(description="which policy this section is of")


class GridConfig(Section):
    """One patch of every window of 2 x 2: a quarter of them, spread evenly."""

    name: Literal["grid"] = Field(description="which policy this section is of")
    place: Literal["top_left", "drawn"] = Field(
        default="top_left",
        description="which patch of a window; `drawn` draws one for each window and visit",
    )


class BlockConfig(_Keeping):
    """One rectangle of patches, as square as their number allows, at a place drawn for each visit."""

    name: Literal["block"] = Field(description="which policy this section is of")


ImageTokensConfig = Annotated[
    ResizeConfig | RandomPatchesConfig | GridConfig | BlockConfig, Field(discriminator="name")
]


class TruncateConfig(Section):
    """The first tokens of a text that is too long: what the tokenizer does, and what evaluation sees."""

    name: Literal["truncate"] = Field(
        default="truncate", description="which policy this section is of"
    )


class RandomTextConfig(Section):
    """Tokens drawn for each visit, any with the same chance; they keep their order."""

    name: Literal["random"] = Field(description="which policy this section is of")


class BlockTextConfig(Section):
    """One run of neighbouring tokens, which begins at a place drawn for each visit."""

    name: Literal["block"] = Field(description="which policy this section is of")


class SyntaxConfig(Section):
    """Nouns first, then adjectives, then verbs, then the rest; what stays keeps its order. English tables are there."""

    name: Literal["syntax"] = Field(description="which policy this section is of")
    table: Place | None = Field(
        default=None,
        description="file with the priority of each token of the vocabulary, made by `python -m neuclip.tokens.build`; "
        "null is the one that comes with neuclip for the tokenizer",
        json_schema_extra={"keyed": False},  # its content counts, not where it lies
    )


TextTokensConfig = Annotated[
    TruncateConfig | RandomTextConfig | BlockTextConfig | SyntaxConfig, Field(discriminator="name")
]
