"""InfoNCE of the local anchors of a global batch.

Legend: S side (0 image anchors, 1 text anchors), B local batch.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from neuclip.objectives.global_batch import GlobalBatch


def infonce(
    batch: GlobalBatch, temperature: Float[Tensor, ""]
) -> tuple[Float[Tensor, "2 B"], Float[Tensor, "2 B"]]:
    """Return the loss of each anchor, nats, and the logsumexp of its margins to all other pairs.

    Definition: -log softmax_j(cos_ij / tau) at j = i; equally log(1 + sum over the other pairs of
    exp(margin / tau)).
    """
    others_SB = batch.log_sums(temperature)
    # The softmax's -log at the own pair; torch's own threshold of 20 costs 2e-9.
    return functional.softplus(others_SB, threshold=40), others_SB
