"""A text tower that reads features of a frozen encoder, a large language model for example."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from neuclip.foundation.config import keyed_if_set
from neuclip.foundation.errors import ConfigError
from neuclip.towers.text_kind import TextKind

if TYPE_CHECKING:
    from torch import nn


class CachedFeatures(TextKind):
    """An adapter over features that the stage `text_encoder` makes of the captions once (LLM2CLIP)."""

    reads_features: ClassVar[bool] = True

    kind: Literal["features"]
    width: int = Field(ge=1, description="width of the features: the hidden size of the encoder")
    blocks: int = Field(default=4, ge=0, le=64, description="residual blocks before the projection")
    expansion: int = Field(
        default=2, ge=1, le=16, description="width inside a block, in widths of the features"
    )
    online: bool = keyed_if_set(
        default=False,
        description="run the frozen encoder on every batch, in place of reading features that were made before: for "
        "small sets, and for texts that are edited at each visit",
    )

    def text_cfg(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return the section without what is of training alone."""
        del before
        return self.model_dump(mode="json", exclude={"online"})

    def build(self, embed_dim: int) -> "nn.Module":
        """Return the adapter."""
        from neuclip.towers.adapter import FeatureAdapter

        return FeatureAdapter(
            self.width, blocks=self.blocks, expansion=self.expansion, embed_dim=embed_dim
        )

    def tokens_of(self, texts: list[str]) -> Any:  # noqa: ANN401  # never returns
        """Refuse texts."""
        raise ConfigError(
            f"the text tower reads features of width {self.width} of a text encoder, and was given {len(texts)} texts "
            "without it; name the encoder's folder: load_towers(FOLDER, encoder=ENCODER_FOLDER)"
        )
