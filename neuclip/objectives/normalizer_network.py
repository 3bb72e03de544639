"""The network that predicts an anchor's log-normalizer from prototypes.

Legend: S side (0 image anchors with prototype texts, 1 text anchors with prototype images),
B local anchors, M prototypes a side, C <= M prototypes in use, D embedding width, tau temperature,
alpha predicted and l batch log-normalizer, r = exp(l - alpha) their ratio.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from neuclip.distributed.collectives import all_reduce_mean_
from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError
from neuclip.objectives.margins import log_normalizers, log_weights, scaled_margins

# Far above rounding noise and far below a real gradient. When the prototypes are the batch itself
# the gradient is pure rounding noise, which AdaGrad would otherwise turn into full steps.
_ADAGRAD_EPS = 1e-8


class NormalizerNetwork(nn.Module):
    """Prototypes, their AdaGrad sums, and the log-normalizers that they predict.

    Definition: alpha_i = log(eps + mean_j exp((cos(anchor_i, w_j) - cos(own pair i)) / tau)),
    the mean over the prototypes in use that did not come from the anchor's own pair. Dividing by
    the number of those that remain, not by all, makes alpha the exact log-normalizer when the
    prototypes are all embeddings of a data set that holds the anchor.

    Source: NeuCLIP, arXiv 2511.08417; gradients against autograd and loops in
    tests/objectives/test_normalizer_network.py.
    """

    prototypes_SMD: Tensor
    squared_gradients_SMD: Tensor
    prototype_ids_M: Tensor

    def __init__(
        self,
        num_prototypes: int,
        feature_dim: int,
        *,
        eps: float,
        lr: float,
        ratio_clamp: float | None,
        mask_own_pair: bool,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.lr = lr
        self.max_log_ratio = math.inf if ratio_clamp is None else math.log(ratio_clamp)
        self.mask_own_pair = mask_own_pair
        self.num_in_use = 0
        shape = (2, num_prototypes, feature_dim)
        self.register_buffer("prototypes_SMD", torch.zeros(shape))
        self.register_buffer("squared_gradients_SMD", torch.zeros(shape))
        self.register_buffer("prototype_ids_M", torch.zeros(num_prototypes, dtype=torch.int64))

    def get_extra_state(self) -> Tensor:
        """Return the number of prototypes in use; a tensor, as all state."""
        return torch.tensor(self.num_in_use)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number of prototypes in use from a saved state."""
        self.num_in_use = int(state)

    @torch.no_grad()
    def restart(
        self, contrasts_SCD: Float[Tensor, "2 C D"], sample_ids_C: Int[Tensor, " C"]
    ) -> None:
        """Make these embeddings the prototypes and forget the AdaGrad sums.

        Args:
            contrasts_SCD: texts on side 0, images on side 1; row c of both is pair c.
            sample_ids_C: ids of those pairs.
        """
        self.num_in_use = len(sample_ids_C)
        self.prototypes_SMD[:, : self.num_in_use] = contrasts_SCD
        self.prototype_ids_M[: self.num_in_use] = sample_ids_C
        self.squared_gradients_SMD.zero_()

    def column_log_weights(self, sample_ids_B: Int[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """Return the log of each prototype's weight in an anchor's mean; -inf for its own pair."""
        if self.num_in_use == 0:
            raise NumericsError(
                "expected prototypes, found none: the network has seen no batch; "
                "call the objective once in training mode, or load a saved state"
            )
        ids_C = self.prototype_ids_M[: self.num_in_use]
        is_own_BC = sample_ids_B[:, None] == ids_C
        is_excluded_BC: Bool[Tensor, "B C"] = is_own_BC & self.mask_own_pair
        return log_weights(is_excluded_BC, self.prototypes_SMD.dtype)

    def forward(
        self,
        anchors_SBD: Float[Tensor, "2 B D"],
        own_cosine_B: Float[Tensor, " B"],
        temperature: Float[Tensor, ""],
        log_weights_BC: Float[Tensor, "B C"],
    ) -> Float[Tensor, "2 B"]:
        """Return alpha, nats, with gradient to the anchors and tau; prototypes are constants."""
        directions_SCD = functional.normalize(self.prototypes_SMD[:, : self.num_in_use], dim=2)
        margins_SBC = scaled_margins(anchors_SBD, directions_SCD, own_cosine_B, temperature)
        return log_normalizers(margins_SBC, log_weights_BC, self.eps)

    @torch.no_grad()
    def gradient(
        self,
        anchors_SBD: Float[Tensor, "2 B D"],
        own_cosine_B: Float[Tensor, " B"],
        temperature: Float[Tensor, ""],
        log_weights_BC: Float[Tensor, "B C"],
        *,
        batch_SB: Float[Tensor, "2 B"],
    ) -> Float[Tensor, "2 C D"]:
        """Return the gradient of the local fit with respect to the prototypes in use.

        Definition: of tau * mean_i sum_sides (exp(l_i - alpha_i) + alpha_i - 1), l constant; with
        p_ij the share of prototype j in exp(alpha_i), w_j = W_j / |W_j|, and r limited to its
        clamp: mean_i (1 - r_i) p_ij (I - w_j w_j^T) anchor_i / |W_j|.

        Args:
            batch_SB: l, nats, of the same anchors against the global batch.
        """
        prototypes_SCD = self.prototypes_SMD[:, : self.num_in_use]
        lengths_SC1 = prototypes_SCD.norm(dim=2, keepdim=True)
        directions_SCD = prototypes_SCD / lengths_SC1
        margins_SBC = scaled_margins(anchors_SBD, directions_SCD, own_cosine_B, temperature)
        alpha_SB = log_normalizers(margins_SBC, log_weights_BC, self.eps)
        ratio_SB = (batch_SB - alpha_SB).clamp(max=self.max_log_ratio).exp()
        share_SBC = (margins_SBC + log_weights_BC - alpha_SB[..., None]).exp()
        weight_SBC = share_SBC * ((1 - ratio_SB) / ratio_SB.shape[1])[..., None]
        pull_SCD = weight_SBC.transpose(1, 2) @ anchors_SBD
        radial_SC1 = (pull_SCD * directions_SCD).sum(dim=2, keepdim=True)
        return (pull_SCD - radial_SC1 * directions_SCD) / lengths_SC1

    @torch.no_grad()
    def update(self, gradient_SCD: Float[Tensor, "2 C D"]) -> None:
        """Take one AdaGrad step."""
        sums_SCD = self.squared_gradients_SMD[:, : self.num_in_use]
        sums_SCD.addcmul_(gradient_SCD, gradient_SCD)
        step_SCD = gradient_SCD / (sums_SCD.sqrt() + _ADAGRAD_EPS)
        self.prototypes_SMD[:, : self.num_in_use].sub_(step_SCD, alpha=self.lr)

    def fit(
        self,
        anchors_SBD: Float[Tensor, "2 B D"],
        own_cosine_B: Float[Tensor, " B"],
        temperature: Float[Tensor, ""],
        log_weights_BC: Float[Tensor, "B C"],
        *,
        batch_SB: Float[Tensor, "2 B"],
        num_steps: int,
        world: World,
    ) -> None:
        """Take AdaGrad steps on one global batch; prototypes stay equal on all ranks.

        Averaging the local gradients over ranks gives the gradient on the global batch.
        """
        for _ in range(num_steps):
            gradient_SCD = self.gradient(
                anchors_SBD, own_cosine_B, temperature, log_weights_BC, batch_SB=batch_SB
            )
            self.update(all_reduce_mean_(gradient_SCD, world))
