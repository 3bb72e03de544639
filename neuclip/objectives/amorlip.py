"""AmorLIP: partition functions predicted by networks that are regressed on the batch's own sums.

Legend: S side (0 image anchors, 1 text anchors), B local batch, G global batch, tau temperature,
lambda predicted sum over the global batch of exp(cos / tau), T the sum that it is regressed on.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.distributed.world import World
from neuclip.objectives.config import AmorLipConfig
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.lambda_network import LambdaNetworks
from neuclip.objectives.margins import pair_losses, without_eps
from neuclip.objectives.objective import LogNormalizers, Objective, ObjectiveResult
from neuclip.objectives.temperature import Temperature


class AmorLip(Objective):
    """Weigh each batch sum by a predicted one.

    Definition: tau_const * J + rho tau, with J = -2 mean_i cos_ii / tau
    + mean_i sum over sides of S_i / lambda_i, S_i = sum over the other pairs j of the batch of
    exp(cos_ij / tau) + own_pair_weight exp(cos_ii / tau), lambda constant.
    Target: T = S, smoothed over epochs by what the last epoch's network says:
    beta lambda_prev + (1 - beta) S, beta along a cosine from 0 to `smoothing_max`.
    An anchor with S_i / lambda_i beyond `ratio_clamp` counts with a lambda that makes it that.
    With lambda = S and own_pair_weight 1, J has twice the gradient of InfoNCE.

    `log_normalizers` is log lambda - cos_ii / tau - log G.

    Source: AmorLIP, arXiv 2505.18983, log-l2 amortisation; oracles in tests/oracles/amorlip.py.
    """

    def __init__(
        self, config: AmorLipConfig, *, feature_dim: int, num_samples: int, seed: int, world: World
    ) -> None:
        super().__init__(
            Temperature(config),
            feature_dim=feature_dim,
            num_samples=num_samples,
            world=world,
            reduction=config.reduction,
        )
        self.config = config
        self.networks = LambdaNetworks(config, feature_dim=feature_dim, seed=seed, world=world)
        clamp = config.ratio_clamp
        self.max_log_ratio = math.inf if clamp is None else math.log(clamp)
        self.register_buffer("global_batch", torch.tensor(0))

    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> ObjectiveResult:
        """Return the loss, nats times temperature; see `Objective.forward`."""
        with torch.autocast(image_features.device.type, enabled=False):
            batch = self.collect(image_features, text_features, sample_ids)
            temperature = self.temperature
            epoch = math.floor(self.epoch(batch))
            log_sums_SB = self._log_sums(batch, temperature)
            log_targets_SB = self._log_targets(batch, log_sums_SB.detach(), epoch)
            features_SBD = batch.anchors_SBD.detach()
            if self.training:
                self.global_batch = torch.full_like(self.global_batch, len(batch.sample_ids_G))
                self.networks.start_epoch(epoch)
                self.networks.fit(features_SBD, log_targets_SB)
            log_lambda_SB = log_targets_SB
            if self.config.encoder_normalizer == "network":
                log_lambda_SB = self.networks.predict(self.networks.average, features_SBD)
                log_lambda_SB = log_lambda_SB.to(log_sums_SB.dtype)
            return self._result(batch, log_sums_SB, log_lambda_SB, temperature, epoch)

    @torch.no_grad()
    def predict(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> LogNormalizers | None:
        """Return what the averaged networks say of these anchors; see `Objective.predict`."""
        del sample_ids
        if self.global_batch == 0:
            return None
        features_SBD = torch.stack([image_features, text_features])
        log_lambda_SB = self.networks.predict(self.networks.average, features_SBD)
        own_B = (image_features * text_features).sum(dim=1) / self.temperature.detach()
        estimates_SB = log_lambda_SB - own_B - self.global_batch.log()
        return estimates_SB[0], estimates_SB[1]

    def _log_sums(self, batch: GlobalBatch, temperature: Float[Tensor, ""]) -> Float[Tensor, "2 B"]:
        """Return log S of the local anchors."""
        relative_SB = batch.log_sums(temperature)
        if self.config.own_pair_weight > 0:
            own = math.log(self.config.own_pair_weight)
            relative_SB = torch.logaddexp(relative_SB, torch.full_like(relative_SB, own))
        return relative_SB + batch.own_cosine_B / temperature

    @torch.no_grad()
    def _log_targets(
        self, batch: GlobalBatch, log_sums_SB: Float[Tensor, "2 B"], epoch: int
    ) -> Float[Tensor, "2 B"]:
        share = min(epoch / self.config.smoothing_epochs, 1.0)
        beta = self.config.smoothing_max * 0.5 * (1 - math.cos(math.pi * share))
        if beta == 0:
            return log_sums_SB
        networks = self.networks
        last = networks.previous if networks.fitted_epoch == epoch else networks.average
        before_SB = networks.predict(last, batch.anchors_SBD).to(log_sums_SB.dtype)
        return torch.logaddexp(before_SB + math.log(beta), log_sums_SB + math.log(1 - beta))

    def _result(
        self,
        batch: GlobalBatch,
        log_sums_SB: Float[Tensor, "2 B"],
        log_lambda_SB: Float[Tensor, "2 B"],
        temperature: Float[Tensor, ""],
        epoch: int,
    ) -> ObjectiveResult:
        own_B = batch.own_cosine_B / temperature
        excess_SB = (log_sums_SB.detach() - log_lambda_SB - self.max_log_ratio).clamp(min=0)
        log_lambda_SB = log_lambda_SB + excess_SB
        ratio_SB = (log_sums_SB - log_lambda_SB).exp()
        is_late = epoch >= self.config.late_rho_from_epoch
        rho = self.config.late_rho if is_late else self.config.rho
        energy = ratio_SB.sum(dim=0).mean() - 2 * own_B.mean()
        loss = temperature.detach() * energy + rho * temperature
        relative_SB = (log_lambda_SB - own_B).detach()
        scaled_SB = relative_SB - batch.log_counts_B - temperature.detach().log()
        loss = loss + batch.contrast_role(scaled_SB, temperature)
        estimates_SB = relative_SB - excess_SB - math.log(len(batch.sample_ids_G))
        return ObjectiveResult(
            loss=loss,
            log_normalizers=(estimates_SB[0], estimates_SB[1]),
            metrics={
                "temperature": temperature.detach(),
                "log_normalizer_mean": estimates_SB.mean(),
                "ratio_mean": ratio_SB.detach().mean(),
                "ratio_max": ratio_SB.detach().max(),
                "ratio_clamped_share": (excess_SB > 0).to(ratio_SB.dtype).mean(),
                "rho": rho,
            },
            scale=2 * temperature.detach(),
            pair_losses=pair_losses(
                without_eps((log_sums_SB - own_B).detach(), self.config.own_pair_weight)
            ),
        )
