"""NeuCLIP: encoders and a normalizer estimator descend one objective.

Legend: S side (0 image anchors, 1 text anchors), B local batch, G global batch, C a queue's pairs,
D embedding width, tau temperature, eps inside the log, g mean over the other pairs of
exp(margin / tau), l = log(eps + g) over the batch, alpha its prediction, r = exp(l - alpha).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.distributed.world import World
from neuclip.foundation.randomness import keyed_hash
from neuclip.objectives.config import NeuClipConfig
from neuclip.objectives.estimators.estimator import Anchors
from neuclip.objectives.estimators.registry import build_estimator
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.margins import (
    log_normalizers,
    log_weights,
    pair_losses,
    scaled_margins,
    without_eps,
)
from neuclip.objectives.objective import LogNormalizers, Objective, ObjectiveResult, Wanted
from neuclip.objectives.temperature import Temperature


class NeuClip(Objective):
    """Minimise a bound of the global contrastive loss with predicted log-normalizers.

    Definition: tau * mean_i [exp(l1_i - alpha1_i) + alpha1_i - 1 + exp(l2_i - alpha2_i)
    + alpha2_i - 1] + 2 rho tau; sides 1 and 2 are the image and text anchors of the global batch.
    A training step first lets the estimator learn from the batch and then takes alpha from it: as
    a constant (`detached`) or as a function of features and tau (`through`). Before an estimator
    holds anything, alpha is the batch's own l.

    An anchor whose r would exceed `ratio_clamp` is given alpha = l - log(ratio_clamp), so that it
    still pulls and pushes, with limited weight. `log_normalizers` and the ratio metrics are of the
    estimator's own alpha, before that limit.

    From `queue_negatives_from_epoch` on, a queue's features count among the batch's others in l.

    Source: arXiv 2511.08417, equation 12; oracles in tests/oracles/contrastive.py.
    """

    def __init__(
        self, config: NeuClipConfig, *, feature_dim: int, num_samples: int, seed: int, world: World
    ) -> None:
        super().__init__(
            Temperature(config),
            feature_dim=feature_dim,
            num_samples=num_samples,
            world=world,
            reduction=config.reduction,
        )
        self.config = config
        self.seed = seed
        self.estimator = build_estimator(
            config.estimator,
            feature_dim,
            eps=config.eps,
            ratio_clamp=config.ratio_clamp,
            world=world,
        )

    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> ObjectiveResult:
        """Return the loss, nats times temperature, both sides summed; see `Objective.forward`."""
        with torch.autocast(image_features.device.type, enabled=False):
            batch = self.collect(image_features, text_features, sample_ids)
            temperature = self.temperature
            log_batch_SB = batch.log_normalizers(temperature, self.config.eps)
            anchors = Anchors.of(batch, temperature)
            constant = anchors.detached()
            if self.training:
                self.estimator.prepare(
                    batch, constant, log_batch_SB.detach(), step=self.steps_of_phase
                )
            is_live = self.config.alpha_mode == "through"
            alpha_SB = log_batch_SB.detach()
            if self.estimator.is_ready:
                alpha_SB = self.estimator(anchors if is_live else constant)
            result = self._result(batch, log_batch_SB, alpha_SB, temperature)
            if self.training:
                self.estimator.update(batch, constant, log_batch_SB.detach(), alpha_SB.detach())
            return result

    @property
    def is_warming(self) -> bool:
        """Tell whether the estimator alone learns, as it does for a while after a switch of phase."""
        return self.phase_start > 0 and self.steps_of_phase < self.config.warm_steps

    @torch.no_grad()
    def predict(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> LogNormalizers | None:
        """Return what the estimator says of these anchors; see `Objective.predict`."""
        if not self.estimator.is_ready:
            return None
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        features_SBD = torch.stack([image_features, text_features]).to(dtype)
        own_cosine_B = (features_SBD[0] * features_SBD[1]).sum(dim=1)
        alpha_SB = self.estimator(
            Anchors(features_SBD, own_cosine_B, sample_ids, self.temperature.detach())
        )
        return alpha_SB[0], alpha_SB[1]

    def wanted(self) -> Wanted | None:
        """Return the pairs that prototypes restart from before the next step; see `Objective.wanted`."""
        asked = self.estimator.wanted(self.steps_of_phase)
        if asked is None:
            return None
        count, strategy = asked
        return Wanted(count, strategy, int(keyed_hash(self.completed_steps, seed=self.seed)))

    @torch.no_grad()
    def take(
        self,
        image_features: Float[Tensor, "N D"],
        text_features: Float[Tensor, "N D"],
        sample_ids: Int[Tensor, " N"],
    ) -> None:
        """Hand the pairs on to the estimator; see `Objective.take`."""
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        contrasts_SND = torch.stack([text_features, image_features]).to(dtype)
        self.estimator.take(contrasts_SND, sample_ids)

    def _result(
        self,
        batch: GlobalBatch,
        log_batch_SB: Float[Tensor, "2 B"],
        alpha_SB: Float[Tensor, "2 B"],
        temperature: Float[Tensor, ""],
    ) -> ObjectiveResult:
        log_counts_B = batch.log_counts_B
        log_sums_SB = without_eps(log_batch_SB.detach(), self.config.eps) + log_counts_B
        if self._uses_queue_negatives(batch):
            log_batch_SB, log_counts_B = self._with_queue_negatives(batch, temperature)
        log_ratio_SB = (log_batch_SB - alpha_SB).detach()
        excess_SB = (log_ratio_SB - self.estimator.max_log_ratio).clamp(min=0)
        limited_SB = alpha_SB + excess_SB
        bound_SB = (log_batch_SB - limited_SB).exp() + limited_SB - 1
        loss = temperature * (bound_SB.sum(dim=0).mean() + 2 * self.config.rho)
        scaled_SB = limited_SB.detach() - temperature.detach().log()
        loss = loss + batch.contrast_role(scaled_SB, temperature, log_counts_B=log_counts_B)
        estimates_SB = alpha_SB.detach()
        ratio_SB = log_ratio_SB.exp()
        return ObjectiveResult(
            loss=loss,
            log_normalizers=(estimates_SB[0], estimates_SB[1]),
            metrics={
                "temperature": temperature.detach(),
                "log_normalizer_mean": estimates_SB.mean(),
                "normalizer_loss": bound_SB.detach().mean(),
                "ratio_mean": ratio_SB.mean(),
                "ratio_max": ratio_SB.max(),
                "ratio_clamped_share": (excess_SB > 0).to(ratio_SB.dtype).mean(),
            },
            pair_losses=pair_losses(log_sums_SB),
            scale=2 * temperature.detach(),
        )

    def _uses_queue_negatives(self, batch: GlobalBatch) -> bool:
        start = self.config.queue_negatives_from_epoch
        return start is not None and self.epoch(batch) >= start and self.estimator.is_ready

    def _with_queue_negatives(
        self, batch: GlobalBatch, temperature: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, "2 B"], Float[Tensor, " B"]]:
        """Return l over the batch's and the queue's other pairs, and the log of their number."""
        found = self.estimator.negatives(batch.sample_ids_B)
        if found is None:
            raise RuntimeError("a queue that is ready holds negatives")
        contrasts_SCD, is_own_BC = found
        queue_SBC = scaled_margins(
            batch.anchors_SBD,
            contrasts_SCD.to(batch.anchors_SBD.dtype),
            batch.own_cosine_B,
            temperature,
        )
        margins_SBX = torch.cat([batch.margins(temperature), queue_SBC], dim=2)
        is_own_BX = torch.cat([batch.is_own_BG, is_own_BC], dim=1)
        log_counts_B = (~is_own_BX).sum(dim=1).to(margins_SBX.dtype).log()
        weights_BX = log_weights(is_own_BX, margins_SBX.dtype)
        return log_normalizers(margins_SBX, weights_BX, self.config.eps), log_counts_B
