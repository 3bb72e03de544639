"""What an image tower and a text tower are to training, scoring and publishing.

Legend: B batch, D embedding width, L text length, W width of the text tower, F width of cached features, n patches.
"""

from typing import Protocol

from jaxtyping import Float, Int64
from torch import Tensor

from neuclip.tokens.vocabulary import Vocabulary
from neuclip.towers.exports import Export

TextInputs = Int64[Tensor, "B L"] | Float[Tensor, "B F"]
"""Token ids, or cached features of a frozen encoder."""


class ImageTower(Protocol):
    """Images to embeddings."""

    @property
    def exports(self) -> frozenset[Export]:
        """What the tower can be exported as."""
        ...

    def __call__(
        self, pixels: Float[Tensor, "B 3 H W"], patches: Int64[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Return raw embeddings, not of unit norm.

        Args:
            patches: the only ones the blocks read, by their place in the grid row by row; None is all.
        """
        ...


class TextTower(Protocol):
    """Texts, as token ids or as cached features, to embeddings."""

    @property
    def exports(self) -> frozenset[Export]:
        """What the tower can be exported as."""
        ...

    def __call__(self, inputs: TextInputs) -> Float[Tensor, "B D"]:
        """Return raw embeddings, not of unit norm."""
        ...

    def states(
        self, inputs: TextInputs, *, mask: Tensor | None = None, is_bidirectional: bool = False
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B L W"]]:
        """Return raw embeddings, and the states of the tokens after the final norm.

        Args:
            mask: vector that hidden tokens become; one of id i is given as ~i.
            is_bidirectional: let tokens see those after them, up to the end of the text, in a tower that reads from
                left to right.
        Raises: ConfigError: if the tower has no such states.
        """
        ...

    def vocabulary(self) -> Vocabulary:
        """Return what tokens the tower reads.

        Raises: ConfigError: if it reads none, or its states are unknown.
        """
        ...
