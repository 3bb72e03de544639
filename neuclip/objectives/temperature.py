"""The learned temperature."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuclip.objectives.config import LearnedTemperature

_SLOWER = 1 / 3


def with_gradient_times(weight: int, temperature: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the temperature with `weight` times its gradient."""
    return weight * temperature - (weight - 1) * temperature.detach()


class Temperature(nn.Module):
    """A temperature tau > 0, held as the learned parameter t = log(1 / tau).

    Args:
        config: its start and range, and whether and how fast it is learned.
    """

    def __init__(self, config: LearnedTemperature) -> None:
        super().__init__()
        self.minimum = config.temperature_min
        self.maximum = config.temperature_max
        self.lr = config.temperature_lr
        self.share = config.temperature_lr_share if config.temperature_lr is None else 1.0
        self.slow_below = config.temperature_slow_below
        start = torch.tensor(-math.log(config.temperature_init), dtype=torch.float32)
        self.log_scale = nn.Parameter(start, requires_grad=config.learn_temperature)

    def forward(self) -> Float[Tensor, ""]:
        """Return tau, with gradient."""
        return torch.exp(-self.log_scale)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring tau back into [minimum, maximum]."""
        self.log_scale.clamp_(-math.log(self.maximum), -math.log(self.minimum))

    @torch.no_grad()
    def lr_factor(self) -> float | Tensor:
        """Return what the learning rate is multiplied by at the present temperature, on its device if it depends."""
        if self.slow_below is None:
            return self.share
        factors = torch.ones(2, dtype=torch.float64, device=self.log_scale.device)
        factors[1:].fill_(_SLOWER)
        return self.share * factors[(self() <= self.slow_below).long()]
