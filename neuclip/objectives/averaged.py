"""What SogCLR, iSogCLR and FastCLIP share: a step over one moving average a sample and side.

Legend: S side, B local batch, G global batch, tau temperature, g mean over the batch's other pairs
of exp(margin / tau), u its moving average, gamma the rate of the average.
"""

import math
from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.distributed.collectives import all_gather
from neuclip.distributed.world import World
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.individual_temperatures import IndividualTemperatures
from neuclip.objectives.margins import add_eps, pair_losses
from neuclip.objectives.moving_average import MovingAverages
from neuclip.objectives.objective import LogNormalizers, Objective, ObjectiveResult
from neuclip.objectives.temperature import Temperature


class AveragedObjective(Objective):
    """Divide the batch's g of each anchor by the anchor's own moving average u.

    Definition: mean_i sum over sides of scale_i g_i / (eps + u_i), u and scale constant and u
    already updated with this batch; without the scale its gradient estimates that of
    log(eps + g_i) over the whole data set. In evaluation mode u is as it stands. What the temperature's own gradient
    needs is added by the kind of objective; temperatures of single samples are moved here, after their use.
    """

    has_state_per_sample = True

    def __init__(
        self,
        temperature: Temperature | IndividualTemperatures,
        *,
        eps: float,
        feature_dim: int,
        num_samples: int,
        world: World,
        reduction: str,
    ) -> None:
        is_individual = isinstance(temperature, IndividualTemperatures)
        super().__init__(
            None if is_individual else temperature,
            feature_dim=feature_dim,
            num_samples=num_samples,
            world=world,
            reduction=reduction,
        )
        self.eps = eps
        self.individual = temperature if is_individual else None
        self.averages = MovingAverages(num_samples=num_samples, world=world)

    @abstractmethod
    def gamma(self, epoch: int) -> float:
        """Return the rate of the moving averages in an epoch of the present phase."""

    def scale(self, temperature: Float[Tensor, "*SB"]) -> Float[Tensor, "*SB"]:
        """Return the constant that an anchor's term is multiplied by."""
        return torch.ones_like(temperature)

    def margin_temperature(self, temperature: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the temperature that margins are divided by, with the gradient it is to have."""
        return temperature

    def temperature_term(
        self,
        denominators_SB: Float[Tensor, "2 B"],  # noqa: ARG002  # versions with rho read it
        temperature: Float[Tensor, "*SB"],
    ) -> Float[Tensor, ""]:
        """Return what is added to the loss for the temperature's sake."""
        return temperature.new_zeros(())

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """Return the temperature; of individual ones the mean over the last batch."""
        return self.individual.mean if self.individual is not None else super().temperature

    def logit_scale_and_bias(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """Return log(1 / tau), of individual temperatures that of their mean over all samples."""
        if self.individual is None:
            return super().logit_scale_and_bias()
        return -self.individual.mean_of_all().log(), None

    def start_at(self, log_scale: Float[Tensor, ""], bias: Float[Tensor, ""] | None) -> None:
        """Start from another model's temperature; see `Objective.start_at`."""
        if self.individual is None:
            super().start_at(log_scale, bias)
        else:
            self.individual.start_at(torch.exp(-log_scale))

    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> ObjectiveResult:
        """Return the loss, both sides summed; see `Objective.forward`."""
        with torch.autocast(image_features.device.type, enabled=False):
            batch = self.collect(image_features, text_features, sample_ids)
            local = self._local(len(sample_ids))
            temperature, for_margins, of_all = self._temperatures(batch, local)
            log_g_SB = batch.log_normalizers(for_margins, 0.0)
            epoch = math.floor(self.epoch(batch))
            gamma = self.gamma(epoch) if self.training else 0.0
            denominators_SB = self._log_denominators(batch, log_g_SB, gamma)[:, local]
            ratio_SB = (log_g_SB - denominators_SB).exp()
            scale = self.scale(temperature.detach())
            loss = (scale * ratio_SB).sum(dim=0).mean()
            loss = loss + self.temperature_term(denominators_SB, temperature)
            loss = loss + batch.contrast_role(denominators_SB - scale.log(), temperature)
            if self.individual is not None and self.training:
                means_SB = batch.weighted_margins(temperature, denominators_SB)
                self.individual.step(batch, denominators_SB - means_SB, epoch)
        return ObjectiveResult(
            loss=loss,
            log_normalizers=(denominators_SB[0], denominators_SB[1]),
            metrics={
                "temperature": temperature.detach().mean(),
                "log_normalizer_mean": denominators_SB.mean(),
                "ratio_mean": ratio_SB.detach().mean(),
                "ratio_max": ratio_SB.detach().max(),
                "gamma": gamma,
            },
            pair_losses=pair_losses(log_g_SB + batch.log_counts_B),
            scale=2 * self.scale(of_all).mean(),
        )

    @torch.no_grad()
    def predict(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> LogNormalizers:
        """Return log(eps + u) as stored, nan for samples never seen; see `Objective.predict`."""
        del image_features, text_features
        log_u_SG = self.averages.read(all_gather(sample_ids, self.world))
        log_u_SB = log_u_SG[:, self._local(len(sample_ids))]
        never_SB = torch.isneginf(log_u_SB)
        estimates_SB = add_eps(log_u_SB, self.eps).masked_fill(never_SB, torch.nan)
        return estimates_SB[0], estimates_SB[1]

    def _temperatures(self, batch: GlobalBatch, local: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the anchors' temperature, the one that margins are divided by, and that of all ranks' anchors.

        The last is a constant: what the loss is divided by must be the same on every rank.
        """
        if self.individual is None:
            temperature = self.temperature
            return temperature, self.margin_temperature(temperature), temperature.detach()
        all_SG = self.individual.read(batch.sample_ids_G).to(batch.own_cosine_B.dtype)
        own_SB = all_SG[:, local]
        return own_SB, own_SB, all_SG

    def _log_denominators(
        self, batch: GlobalBatch, log_g_SB: Float[Tensor, "2 B"], gamma: float
    ) -> Float[Tensor, "2 G"]:
        """Update the averages with the batch and return log(eps + u) of its anchors."""
        log_g_SG = all_gather(log_g_SB.detach().T, self.world).T
        log_u_SG = self.averages.update(batch.sample_ids_G, log_g_SG, gamma, store=self.training)
        return add_eps(log_u_SG, self.eps)

    def _local(self, num_local: int) -> slice:
        first = self.world.rank * num_local
        return slice(first, first + num_local)
