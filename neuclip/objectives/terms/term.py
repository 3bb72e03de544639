"""What every term is to the training step."""

from abc import abstractmethod
from collections.abc import Collection
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from neuclip.objectives.encoded import Encoded
from neuclip.objectives.loss_part import LossPart


class TermResult(NamedTuple):
    """What one batch gave.

    Args:
        loss: scalar whose gradient, averaged over ranks, is that of the term on the global batch.
        metrics: named statistics of the local batch, without gradient.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, float | Tensor]


class Term(LossPart):
    """A loss beside the objective, with parameters and state of its own, if any.

    In training mode `forward` may update inner state; in evaluation mode it changes nothing.
    """

    views_with_states: Collection[str] = ()
    """Views of texts of which the term reads the token states."""

    @abstractmethod
    def forward(self, encoded: Encoded, temperature: Float[Tensor, ""]) -> TermResult:
        """Return the loss of the local batch.

        Args:
            encoded: every view that the term's section names.
            temperature: the objective's present one, with gradient if it is learned by one.
        """
