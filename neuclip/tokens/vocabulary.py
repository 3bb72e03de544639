"""What a loss that reads single tokens has to know of a text tower."""

from typing import NamedTuple


class Vocabulary(NamedTuple):
    """The tokens of a text tower.

    Args:
        size: how many ids it has.
        embedding_width: of what an id becomes before the first block.
        state_width: of a token's state after the last norm.
    """

    size: int
    embedding_width: int
    state_width: int
