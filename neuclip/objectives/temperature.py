"""The learned temperature."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Temperature(nn.Module):
    """A temperature tau > 0, held as the learned parameter t = log(1 / tau).

    Args:
        initial: tau at the start, unitless.
        minimum: lowest tau that `clamp_` leaves.
        maximum: highest tau that `clamp_` leaves.
        is_learned: whether t takes a gradient.
    """

    def __init__(
        self, initial: float, *, minimum: float, maximum: float, is_learned: bool = True
    ) -> None:
        super().__init__()
        self.minimum = minimum
        self.maximum = maximum
        start = torch.tensor(-math.log(initial), dtype=torch.float32)
        self.log_scale = nn.Parameter(start, requires_grad=is_learned)

    def forward(self) -> Float[Tensor, ""]:
        """Return tau, with gradient."""
        return torch.exp(-self.log_scale)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring tau back into [minimum, maximum]."""
        self.log_scale.clamp_(-math.log(self.maximum), -math.log(self.minimum))
