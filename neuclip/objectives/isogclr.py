"""iSogCLR: moving averages at a constant rate, a learned temperature for every sample."""

from jaxtyping import Float
from torch import Tensor

from neuclip.distributed.world import World
from neuclip.objectives.averaged import AveragedObjective
from neuclip.objectives.config import ISogClrConfig
from neuclip.objectives.individual_temperatures import MomentumTemperatures
from neuclip.objectives.moving_average import constant_gamma


class ISogClr(AveragedObjective):
    """The robust global contrastive loss, in which each sample finds its own temperature.

    Definition: see `AveragedObjective`, scale tau_i; temperatures by `MomentumTemperatures`.
    Source: arXiv 2305.11965.
    """

    def __init__(
        self, config: ISogClrConfig, *, feature_dim: int, num_samples: int, seed: int, world: World
    ) -> None:
        del seed
        temperatures = MomentumTemperatures(
            config.temperature_init,
            minimum=config.temperature_min,
            maximum=config.temperature_max,
            lr=config.temperature_lr,
            rho=config.rho,
            num_samples=num_samples,
            world=world,
        )
        super().__init__(
            temperatures,
            eps=config.eps,
            feature_dim=feature_dim,
            num_samples=num_samples,
            world=world,
            reduction=config.reduction,
        )
        self.config = config

    def gamma(self, epoch: int) -> float:
        """Return 1 in epoch 0, then the recipe's rate."""
        return constant_gamma(epoch, gamma=self.config.gamma)

    def scale(self, temperature: Float[Tensor, "*SB"]) -> Float[Tensor, "*SB"]:
        """Return the samples' temperatures."""
        return temperature
