"""FastCLIP: moving averages at a falling rate, in four versions of the temperature.

Legend: S side, B local batch, tau temperature, u moving average.
"""

from jaxtyping import Float
from torch import Tensor

from neuclip.distributed.world import World
from neuclip.objectives.averaged import AveragedObjective
from neuclip.objectives.config import FastClipConfig
from neuclip.objectives.individual_temperatures import AdamTemperatures, IndividualTemperatures
from neuclip.objectives.moving_average import cosine_gamma
from neuclip.objectives.temperature import Temperature, with_gradient_times


class FastClip(AveragedObjective):
    """FastCLIP v0 to v3.

    Definition, with the terms of `AveragedObjective`:
    v0: scale 1, tau learned by the same gradient. v1: scale 1, tau constant.
    v2: scale tau_i, a temperature for each sample and side by `AdamTemperatures`.
    v3: scale tau (constant), plus tau * (mean_i sum over sides of log(eps + u_i) + 2 rho); with
    gamma = 1 its gradient, that of tau included, is that of the robust loss of the batch.

    Source: arXiv 2407.01445; oracles in tests/oracles/moving_average.py.
    """

    def __init__(
        self, config: FastClipConfig, *, feature_dim: int, num_samples: int, seed: int, world: World
    ) -> None:
        del seed
        temperature: Temperature | IndividualTemperatures
        if config.version == "v2":
            temperature = AdamTemperatures(
                config.individual_temperature_init,
                minimum=config.temperature_min,
                maximum=config.temperature_max,
                lr=config.individual_temperature_lr,
                rho=config.rho,
                num_samples=num_samples,
                world=world,
            )
        else:
            is_learned = config.learn_temperature and config.version != "v1"
            temperature = Temperature(config.model_copy(update={"learn_temperature": is_learned}))
        super().__init__(
            temperature,
            eps=config.eps,
            feature_dim=feature_dim,
            num_samples=num_samples,
            world=world,
            reduction=config.reduction,
        )
        self.config = config

    def gamma(self, epoch: int) -> float:
        """Return the rate of FastCLIP's cosine."""
        return cosine_gamma(
            epoch,
            gamma_min=self.config.gamma_min,
            decay_epochs=self.config.gamma_decay_epochs,
        )

    def scale(self, temperature: Float[Tensor, "*SB"]) -> Float[Tensor, "*SB"]:
        """Return tau for v2 and v3, else 1."""
        if self.config.version in ("v2", "v3"):
            return temperature
        return super().scale(temperature)

    def margin_temperature(self, temperature: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return tau with `tau_exp_weight` times its gradient in v3."""
        weight = self.config.tau_exp_weight if self.config.version == "v3" else 1
        return with_gradient_times(weight, temperature)

    def temperature_term(
        self, denominators_SB: Float[Tensor, "2 B"], temperature: Float[Tensor, "*SB"]
    ) -> Float[Tensor, ""]:
        """Return tau * (mean of log(eps + u), both sides summed, + 2 rho) for v3, else 0."""
        if self.config.version != "v3":
            return super().temperature_term(denominators_SB, temperature)
        return temperature * (denominators_SB.sum(dim=0).mean() + 2 * self.config.rho)
