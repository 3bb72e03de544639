"""A learned temperature for every sample and side, as in iSogCLR and FastCLIP-v2.

Legend: S side (0 image anchors, 1 text anchors), G global batch.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuclip.distributed.collectives import all_gather
from neuclip.distributed.world import World
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.per_sample import PerSample

_CLIP = 5.0


class IndividualTemperatures(nn.Module, ABC):
    """Temperatures with what their optimiser remembers: columns tau, first, second moment a side.

    Definition: the gradient of sample i's temperature in the robust loss of that sample is
    log(eps + u_i) + rho - mean_j [exp(margin_ij) margin_ij] / (eps + u_i), margins in units of
    tau_i; it is not divided by the batch.
    """

    mean: Tensor

    def __init__(
        self,
        initial: float,
        *,
        minimum: float,
        maximum: float,
        lr: float,
        rho: float,
        num_samples: int,
        world: World,
    ) -> None:
        super().__init__()
        self.minimum, self.maximum, self.lr, self.rho = minimum, maximum, lr, rho
        self.world = world
        start = [initial, initial, 0.0, 0.0, 0.0, 0.0]
        self.table = PerSample(start, num_samples=num_samples, world=world)
        self.register_buffer("mean", torch.tensor(initial))

    def read(self, sample_ids_G: Int[Tensor, " G"]) -> Float[Tensor, "2 G"]:
        """Return the temperatures; every rank asks for the same samples."""
        return self.table.read(sample_ids_G)[:, :2].T

    def mean_of_all(self) -> Float[Tensor, ""]:
        """Return the mean over all samples and both sides; every rank has to call it."""
        return self.table.whole()[:, :2].double().mean().float()

    @torch.no_grad()
    def start_at(self, temperature: Float[Tensor, ""]) -> None:
        """Start all samples from one temperature, within the range."""
        start = temperature.clamp(self.minimum, self.maximum)
        self.table.rows_RC[:, :2] = start
        self.mean.copy_(start)

    @torch.no_grad()
    def step(self, batch: GlobalBatch, gradients_SB: Float[Tensor, "2 B"], epoch: int) -> None:
        """Move the temperatures of the batch's samples.

        Args:
            gradients_SB: of the local anchors, without rho.
        """
        gradients_SG = all_gather(gradients_SB.T, self.world).T + self.rho
        rows_GC = self.table.read(batch.sample_ids_G).to(gradients_SG.dtype)
        tau_SG, first_SG, second_SG = rows_GC.T.unflatten(0, (3, 2))
        step_SG, first_SG, second_SG = self.move(gradients_SG, first_SG, second_SG, epoch)
        tau_SG = (tau_SG - self.lr * step_SG).clamp(self.minimum, self.maximum)
        self.table.write(batch.sample_ids_G, torch.cat([tau_SG, first_SG, second_SG]).T)
        self.mean.copy_(tau_SG.mean())

    @abstractmethod
    def move(
        self,
        gradients_SG: Float[Tensor, "2 G"],
        first_SG: Float[Tensor, "2 G"],
        second_SG: Float[Tensor, "2 G"],
        epoch: int,
    ) -> tuple[Float[Tensor, "2 G"], Float[Tensor, "2 G"], Float[Tensor, "2 G"]]:
        """Return the step to be scaled by the rate, and the new moments."""


class AdamTemperatures(IndividualTemperatures):
    """FastCLIP-v2's: Adam for each sample, gradients limited to 5.

    Definition: bias correction counts epochs, in which a sample is seen once; in epoch 0 both
    betas are 0, so that the first step is the gradient's sign.
    """

    betas = (0.9, 0.999)
    eps = 1e-8

    def move(
        self,
        gradients_SG: Float[Tensor, "2 G"],
        first_SG: Float[Tensor, "2 G"],
        second_SG: Float[Tensor, "2 G"],
        epoch: int,
    ) -> tuple[Float[Tensor, "2 G"], Float[Tensor, "2 G"], Float[Tensor, "2 G"]]:
        """Return Adam's step and moments; see `IndividualTemperatures.move`."""
        gradients_SG = gradients_SG.clamp(-_CLIP, _CLIP)
        beta1, beta2 = self.betas if epoch > 0 else (0.0, 0.0)
        first_SG = beta1 * first_SG + (1 - beta1) * gradients_SG
        second_SG = beta2 * second_SG + (1 - beta2) * gradients_SG.square()
        mean_SG = first_SG / (1 - beta1 ** (epoch + 1))
        square_SG = second_SG / (1 - beta2 ** (epoch + 1))
        return mean_SG / (square_SG.sqrt() + self.eps), first_SG, second_SG


class MomentumTemperatures(IndividualTemperatures):
    """iSogCLR's: a moving average that takes nine tenths of each new gradient, limited to 5."""

    momentum = 0.9

    def move(
        self,
        gradients_SG: Float[Tensor, "2 G"],
        first_SG: Float[Tensor, "2 G"],
        second_SG: Float[Tensor, "2 G"],
        epoch: int,
    ) -> tuple[Float[Tensor, "2 G"], Float[Tensor, "2 G"], Float[Tensor, "2 G"]]:
        """Return the average as the step; see `IndividualTemperatures.move`."""
        del epoch
        gradients_SG = gradients_SG.clamp(-_CLIP, _CLIP)
        first_SG = (1 - self.momentum) * first_SG + self.momentum * gradients_SG
        return first_SG, first_SG, second_SG
