"""How far features are from being all the same."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def spread(unit_BD: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Return the standard deviation of unit-norm features around their mean: 0 where all are the same, at most 1.

    Definition: sqrt(sum over widths of the variance over the batch): SimSiam's (arXiv 2011.10566, figure 2) times
    sqrt(D).
    """
    return unit_BD.float().var(dim=0, correction=0).sum().sqrt()
