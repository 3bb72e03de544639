"""Text towers in the place of the one that an open_clip architecture has.

A kind is a section of the recipe that says what stands as `text_cfg` in the model folder, with the function that builds
it: a file like cached_features.py, and its name in the list of config.py.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from neuclip.foundation.config import Section
from neuclip.towers.exports import IMAGE, Export

if TYPE_CHECKING:
    from torch import nn

    from neuclip.towers.towers import Towers


class TextKind(Section):
    """A text tower that a recipe names by `train.model.text.kind`."""

    exports: ClassVar[frozenset[Export]] = IMAGE
    """Who reads its model folder beside neuclip."""
    reads_features: ClassVar[bool] = False
    """Whether it reads features of texts, which the stage `text_encoder` makes, in place of tokens."""

    def text_cfg(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return the `text_cfg` of the model folder, from which the tower is built again.

        Args:
            before: the text_cfg of the architecture whose text tower this one replaces.
        """
        del before
        return self.model_dump(mode="json")

    def inputs(self) -> dict[str, str]:
        """Return the fingerprints of what it reads that no stage makes, by name."""
        return {}

    def files(self) -> dict[str, bytes]:
        """Return the files that its model folder holds beside configuration and weights.

        Raises: ConfigError: if one is missing or must not be used.
        """
        return {}

    def build(self, embed_dim: int) -> "nn.Module":
        """Return a module that maps what the tower reads to raw embeddings [B, embed_dim], with new weights.

        Not called where `text_cfg` is one that open_clip builds.
        """
        raise NotImplementedError

    def tokens_of(self, texts: list[str]) -> Any:  # noqa: ANN401  # a tensor; torch is not loaded here
        """Return what the tower reads of texts [N, ...].

        Raises: ConfigError: if it reads no texts.
        """
        raise NotImplementedError

    def put_weights(self, towers: "Towers") -> None:
        """Give new towers the weights that this recipe starts with, where they are not new."""
