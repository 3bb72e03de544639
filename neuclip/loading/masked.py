"""The tokens of a view of texts that a loss has guessed.

Legend: B local batch, L tokens of a context, M masked tokens of the batch.
"""

from typing import NamedTuple

from jaxtyping import Int64
from torch import Tensor


class Masked(NamedTuple):
    """Chosen tokens of a batch, in its order.

    Args:
        places: in the batch's B times L tokens, row by row.
        ids: what stands there.
    """

    places: Int64[Tensor, " M"]
    ids: Int64[Tensor, " M"]
