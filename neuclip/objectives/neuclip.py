"""NeuCLIP: encoders and a normalizer estimator descend one objective.

Legend: S side (0 image anchors, 1 text anchors), B local batch, G global batch,
D embedding width, tau temperature, eps inside the log, g mean over the other pairs of
exp(margin / tau), l = log(eps + g) over the batch, alpha its prediction, r = exp(l - alpha).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.distributed.collectives import all_reduce_mean_
from neuclip.distributed.world import World
from neuclip.foundation.randomness import keyed_hash
from neuclip.objectives.config import NeuClipConfig
from neuclip.objectives.estimators.estimator import Anchors
from neuclip.objectives.estimators.registry import build_estimator
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.margins import mixed, pair_losses, without_eps
from neuclip.objectives.objective import LogNormalizers, Objective, ObjectiveResult, Wanted
from neuclip.objectives.temperature import Temperature, with_gradient_times

_LEAST_AUTO_CLAMP = 20.0
_SQUARE_DECAY = 0.98


class NeuClip(Objective):
    """Minimise a bound of the global contrastive loss with predicted log-normalizers.

    Definition: tau * mean_i [exp(l1_i - alpha1_i) + alpha1_i - 1 + exp(l2_i - alpha2_i)
    + alpha2_i - 1] + 2 rho tau; sides 1 and 2 are the image and text anchors of the global batch.
    A training step first lets the estimator learn from the batch and then takes alpha from it: as
    a constant (`detached`) or as a function of features and tau (`through`). Before an estimator
    holds anything, alpha is the batch's own l.

    With `gamma` above 0 anchors are divided by the prediction mixed with the batch's own value, log((1 - gamma)
    exp(alpha) + gamma exp(l)), a constant in l: FastCLIP's average with a prediction in the place of the stored value.
    An anchor whose r would exceed `ratio_clamp` even so is given l - log(ratio_clamp), so that it still pulls and
    pushes, with limited weight. `log_normalizers` and the ratio metrics are of the estimator's own alpha, before
    either. `gamma: auto` is v / (1 + v), v a moving mean over the steps before of the mean of (l - alpha)^2.

    Source: arXiv 2511.08417, equation 12; oracles in tests/oracles/contrastive.py.
    """

    squared_log_ratio: Tensor

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
        clamp = config.ratio_clamp
        self.estimator = build_estimator(
            config.estimator,
            feature_dim,
            eps=config.eps,
            ratio_clamp=_LEAST_AUTO_CLAMP if clamp == "auto" else clamp,
            world=world,
        )
        if config.gamma == "auto":
            self.register_buffer("squared_log_ratio", torch.ones(()))

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
            for_margins = with_gradient_times(self.config.tau_exp_weight, temperature)
            log_batch_SB = batch.log_normalizers(for_margins, self.config.eps)
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
        log_sums_SB = without_eps(log_batch_SB.detach(), self.config.eps) + batch.log_counts_B
        used_SB, gamma = self._with_own_share(alpha_SB, log_batch_SB.detach())
        excess_SB = (log_batch_SB - used_SB).detach() - self._max_log_ratio(batch)
        excess_SB = excess_SB.clamp(min=0)
        limited_SB = used_SB + excess_SB
        bound_SB = (log_batch_SB - limited_SB).exp() + limited_SB - 1
        rho = self._rho(batch)
        loss = temperature * (bound_SB.sum(dim=0).mean() + 2 * rho)
        scaled_SB = limited_SB.detach() - temperature.detach().log()
        loss = loss + batch.contrast_role(scaled_SB, temperature)
        estimates_SB = alpha_SB.detach()
        ratio_SB = (log_batch_SB.detach() - estimates_SB).exp()
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
                "rho": rho,
                "gamma": gamma,
            },
            pair_losses=pair_losses(log_sums_SB),
            scale=2 * temperature.detach(),
        )

    def _with_own_share(
        self, alpha_SB: Float[Tensor, "2 B"], log_batch_SB: Float[Tensor, "2 B"]
    ) -> tuple[Float[Tensor, "2 B"], float | Float[Tensor, ""]]:
        """Return the prediction mixed with the batch's own value, and gamma; an adapted one learns from this ratio."""
        gamma = self.config.gamma
        if gamma == 0:
            return alpha_SB, 0.0
        if gamma != "auto":
            return mixed(alpha_SB, log_batch_SB, gamma), gamma
        before = self.squared_log_ratio.clone()
        if self.training and self.estimator.is_ready:
            square = (log_batch_SB - alpha_SB.detach()).square().mean().to(before.dtype)
            self.squared_log_ratio.lerp_(all_reduce_mean_(square, self.world), 1 - _SQUARE_DECAY)
        adapted = before / (1 + before)
        return mixed(alpha_SB, log_batch_SB, adapted.to(alpha_SB.dtype)), adapted

    def _max_log_ratio(self, batch: GlobalBatch) -> float:
        clamp = self.config.ratio_clamp
        if clamp is None:
            return math.inf
        if clamp == "auto":
            clamp = (self.num_samples - 1) / (len(batch.sample_ids_G) - 1)
            return math.log(max(clamp, _LEAST_AUTO_CLAMP))
        return math.log(clamp)

    def _rho(self, batch: GlobalBatch) -> float:
        rho = self.config.rho
        return max(0.0, math.log(len(batch.sample_ids_G)) - 1) if rho == "auto" else rho
