"""Small networks on top of embeddings that terms train and nobody publishes.

Legend: B local batch, W width.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuclip.distributed.collectives import gather_with_gradient
from neuclip.distributed.world import World
from neuclip.loading.visits import view_number

T = TypeVar("T")


class GlobalBatchNorm(nn.Module):
    """Batch norm by the statistics of the batch of all ranks.

    Definition: (x - mean) / sqrt(variance + eps) * weight + bias, both over the global batch, with gradient. There are
    no running statistics: a head is never evaluated. torch's SyncBatchNorm does the same on GPUs alone.

    Source: arXiv 1502.03167; against torch's BatchNorm1d in tests/objectives/test_heads.py.
    """

    def __init__(self, width: int, *, world: World, eps: float = 1e-5) -> None:
        super().__init__()
        self._world, self._eps = world, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BW: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        """Return the rows normed."""
        centred_BW = x_BW - self._mean(x_BW)
        variance_W = self._mean(centred_BW.square())
        return centred_BW * (variance_W + self._eps).rsqrt() * self.weight + self.bias

    def _mean(self, x_BW: Float[Tensor, "B W"]) -> Float[Tensor, " W"]:
        sums_RW = gather_with_gradient(x_BW.sum(dim=0, keepdim=True), self._world)
        return sums_RW.sum(dim=0) / (len(x_BW) * self._world.size)


def mlp(widths: Sequence[int], *, world: World, norm_last: bool) -> nn.Sequential:
    """Return linear layers with batch norm and ReLU between them.

    Args:
        widths: of the input, of each layer's output.
        norm_last: whether a batch norm stands after the last layer too.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        if layers:
            layers.append(nn.ReLU())
        layers += [nn.Linear(width, following), GlobalBatchNorm(following, world=world)]
    return nn.Sequential(*(layers if norm_last else layers[:-1]))


def new_weights(build: Callable[[], T], *, seed: int, name: str) -> T:
    """Build something whose weights are a pure function of a seed and a name: they are equal on all ranks.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(view_number(f"weights {seed}", name) % 2**63)
        return build()


def in_own_precision(module: nn.Module, x: Tensor) -> Tensor:
    """Return a tensor in the number format of a module's weights, which autocast leaves alone."""
    return x.to(next(module.parameters()).dtype)
