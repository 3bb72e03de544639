"""One moving average of the batch's normalizer for every sample and side: the u of SogCLR.

Legend: S side (0 image anchors, 1 text anchors), G global batch, g mean over the batch's other
pairs of exp(margin / tau), u its moving average, gamma the rate of the average.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuclip.distributed.world import World
from neuclip.objectives.per_sample import PerSample


def cosine_gamma(epoch: int, *, gamma_min: float, decay_epochs: int) -> float:
    """Return FastCLIP's rate: 1 in epoch 0, then half a cosine down to gamma_min.

    Source: arXiv 2407.01445.
    """
    if epoch >= decay_epochs:
        return gamma_min
    return 0.5 * (1 + math.cos(math.pi * epoch / decay_epochs)) * (1 - gamma_min) + gamma_min


def constant_gamma(epoch: int, *, gamma: float) -> float:
    """Return 1 in epoch 0, when no sample has an average yet, and then a constant rate."""
    return 1.0 if epoch == 0 else gamma


class MovingAverages(nn.Module):
    """log u of every sample and side, minus infinity where a sample was never seen.

    Definition: u <- (1 - gamma) u + gamma g, in the log domain, where exp of a margin at
    tau = 0.01 does not fit into float32; a sample seen for the first time takes u = g. FastCLIP also
    takes u below 1e-35 for never seen; here minus infinity alone says so, and small values count.

    Source: SogCLR, arXiv 2202.12387; against loops in tests/objectives/test_moving_average.py.
    """

    def __init__(self, *, num_samples: int, world: World) -> None:
        super().__init__()
        self.table = PerSample([-math.inf, -math.inf], num_samples=num_samples, world=world)

    def read(self, sample_ids_G: Int[Tensor, " G"]) -> Float[Tensor, "2 G"]:
        """Return log u as it stands; every rank asks for the same samples."""
        return self.table.read(sample_ids_G).T

    @torch.no_grad()
    def update(
        self,
        sample_ids_G: Int[Tensor, " G"],
        log_g_SG: Float[Tensor, "2 G"],
        gamma: float,
        *,
        store: bool,
    ) -> Float[Tensor, "2 G"]:
        """Return the new log u, and write it if asked to; every rank has the same arguments."""
        old_SG = self.read(sample_ids_G).to(log_g_SG.dtype)
        is_new_SG = ~torch.isfinite(old_SG)
        new_SG = torch.where(is_new_SG, log_g_SG, old_SG) if gamma == 0 else log_g_SG
        if 0 < gamma < 1:
            averaged_SG = torch.logaddexp(old_SG + math.log(1 - gamma), log_g_SG + math.log(gamma))
            new_SG = torch.where(is_new_SG, log_g_SG, averaged_SG)
        if store:
            self.table.write(sample_ids_G, new_SG.T)
        return new_SG
