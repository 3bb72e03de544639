"""A text tower that reads cached features of a frozen encoder, a large language model for example."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from neuclip.foundation.errors import ConfigError
from neuclip.towers.text_kind import TextKind

if TYPE_CHECKING:
    from torch import nn


class CachedFeatures(TextKind):
    """Features [B, width] to embeddings by one matrix. Only neuclip reads its model folder."""

    reads_texts: ClassVar[bool] = False

    kind: Literal["features"]
    width: int = Field(ge=1, description="width of the cached features")

    def build(self, embed_dim: int) -> "nn.Module":
        """Return the adapter."""
        from torch import nn

        return nn.Linear(self.width, embed_dim, bias=False)

    def tokens_of(self, texts: list[str]) -> Any:  # noqa: ANN401  # never returns
        """Refuse texts."""
        raise ConfigError(
            f"the text tower reads cached features of width {self.width}, and was given {len(texts)} texts; encode "
            "them with the encoder that the features come from, or train with a text tower that reads tokens"
        )
