"""NeuCLIP: encoders and a normalizer network descend one objective.

Legend: S side (0 image anchors, 1 text anchors), B local batch, G global batch, D embedding width,
tau temperature, eps inside the log, g mean over the other pairs of exp(margin / tau),
l = log(eps + g) over the batch, alpha its prediction, r = exp(l - alpha).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.distributed.collectives import all_gather
from neuclip.distributed.world import World
from neuclip.objectives.config import NeuClipConfig
from neuclip.objectives.margins import (
    both_sides,
    log_normalizers,
    log_weights,
    own_columns,
    scaled_margins,
)
from neuclip.objectives.normalizer_network import NormalizerNetwork
from neuclip.objectives.objective import Objective, ObjectiveResult
from neuclip.objectives.recent_pairs import RecentPairs
from neuclip.objectives.temperature import Temperature


class NeuClip(Objective):
    """Minimise a bound of the global contrastive loss with predicted log-normalizers.

    Definition: tau * mean_i [exp(l1_i - alpha1_i) + alpha1_i - 1 + exp(l2_i - alpha2_i)
    + alpha2_i - 1] + 2 rho tau; sides 1 and 2 are the image and text anchors of the global batch.
    A training step first fits the normalizer network to the batch (`inner_steps` AdaGrad steps
    with l, features and tau fixed) and then takes alpha from it: as a constant (`detached`) or as
    a function of features and tau (`through`).

    Prototypes restart from the most recent pairs, this batch included, at step 0 and every
    `restart_every` steps, and once more as soon as there are enough pairs for all prototypes;
    until then as many prototypes as there are pairs are in use.

    An anchor whose r would exceed `ratio_clamp` is given alpha = l - log(ratio_clamp), so that it
    still pulls and pushes, with limited weight. `log_normalizers` and the ratio metrics are of the
    network's own alpha, before that limit.

    Source: arXiv 2511.08417, equation 12; oracles in tests/oracles/contrastive.py.
    """

    def __init__(self, config: NeuClipConfig, *, feature_dim: int, world: World) -> None:
        temperature = Temperature(
            config.temperature_init,
            minimum=config.temperature_min,
            maximum=config.temperature_max,
        )
        super().__init__(
            feature_dim, temperature, temperature_lr=config.temperature_lr, world=world
        )
        self.config = config
        self.completed_steps = 0
        self.network = NormalizerNetwork(
            config.num_prototypes,
            feature_dim,
            eps=config.eps,
            lr=config.inner_lr,
            ratio_clamp=config.ratio_clamp,
            mask_own_pair=config.mask_own_pair,
        )
        self.recent = RecentPairs(config.num_prototypes, feature_dim)

    def get_extra_state(self) -> Tensor:
        """Return the number of completed steps; a tensor, as all state."""
        return torch.tensor(self.completed_steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number of completed steps from a saved state."""
        self.completed_steps = int(state)

    def advance(self, step: int) -> None:
        """Close a training step; the next restart is counted from here."""
        super().advance(step)
        self.completed_steps = step

    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> ObjectiveResult:
        """Return the loss, nats times temperature, both sides summed; see `Objective.forward`."""
        self.check_features(image_features, text_features)
        with torch.autocast(image_features.device.type, enabled=False):
            temperature = self.temperature
            anchors_SBD, contrasts_SGD = both_sides(
                image_features, text_features, dtype=temperature.dtype, world=self.world
            )
            own_cosine_B = (anchors_SBD[0] * anchors_SBD[1]).sum(dim=1)
            margins_SBG = scaled_margins(anchors_SBD, contrasts_SGD, own_cosine_B, temperature)
            weights_BG = log_weights(own_columns(anchors_SBD, self.world), margins_SBG.dtype)
            batch_SB = log_normalizers(margins_SBG, weights_BG, self.config.eps)
            if self.training:
                self._restart_if_due(contrasts_SGD.detach(), all_gather(sample_ids, self.world))
            alpha_SB = self._predict(anchors_SBD, own_cosine_B, sample_ids, batch_SB)
            return self._result(batch_SB, alpha_SB, temperature)

    def _restart_if_due(
        self, contrasts_SGD: Float[Tensor, "2 G D"], sample_ids_G: Int[Tensor, " G"]
    ) -> None:
        self.recent.add(contrasts_SGD, sample_ids_G)
        can_complete = self.recent.is_full and self.network.num_in_use < self.recent.capacity
        if self.completed_steps % self.config.restart_every == 0 or can_complete:
            self.network.restart(*self.recent.held())

    def _predict(
        self,
        anchors_SBD: Float[Tensor, "2 B D"],
        own_cosine_B: Float[Tensor, " B"],
        sample_ids: Int[Tensor, " B"],
        batch_SB: Float[Tensor, "2 B"],
    ) -> Float[Tensor, "2 B"]:
        """Fit the network to the batch if training, and return its alpha."""
        weights_BC = self.network.column_log_weights(sample_ids)
        constants = anchors_SBD.detach(), own_cosine_B.detach(), self.temperature.detach()
        if self.training:
            self.network.fit(
                *constants,
                weights_BC,
                batch_SB=batch_SB.detach(),
                num_steps=self.config.inner_steps,
                world=self.world,
            )
        if self.config.alpha_mode == "detached":
            return self.network(*constants, weights_BC)
        return self.network(anchors_SBD, own_cosine_B, self.temperature, weights_BC)

    def _result(
        self,
        batch_SB: Float[Tensor, "2 B"],
        alpha_SB: Float[Tensor, "2 B"],
        temperature: Float[Tensor, ""],
    ) -> ObjectiveResult:
        log_ratio_SB = (batch_SB - alpha_SB).detach()
        excess_SB = (log_ratio_SB - self.network.max_log_ratio).clamp(min=0)
        limited_SB = alpha_SB + excess_SB
        bound_SB = (batch_SB - limited_SB).exp() + limited_SB - 1
        loss = temperature * (bound_SB.sum(dim=0).mean() + 2 * self.config.rho)
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
        )
