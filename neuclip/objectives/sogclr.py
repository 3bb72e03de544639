"""SogCLR: moving averages at a constant rate, one constant temperature."""

from neuclip.distributed.world import World
from neuclip.objectives.averaged import AveragedObjective
from neuclip.objectives.config import LearnedTemperature, SogClrConfig
from neuclip.objectives.moving_average import constant_gamma
from neuclip.objectives.temperature import Temperature


class SogClr(AveragedObjective):
    """The global contrastive loss at a constant temperature.

    Definition: see `AveragedObjective`, scale 1, so without the constant factor tau.
    Source: arXiv 2202.12387, for two modalities as in arXiv 2407.01445.
    """

    def __init__(
        self, config: SogClrConfig, *, feature_dim: int, num_samples: int, seed: int, world: World
    ) -> None:
        del seed
        tau = config.temperature
        constant = LearnedTemperature(
            temperature_init=tau,
            temperature_min=tau,
            temperature_max=tau,
            learn_temperature=False,
        )
        super().__init__(
            Temperature(constant),
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
