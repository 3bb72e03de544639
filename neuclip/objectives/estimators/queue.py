"""A queue of past features: the normalizer estimator without anything learned.

Legend: S side, B local anchors, C pairs held, D width, tau temperature.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from neuclip.objectives.estimators.estimator import Anchors, Estimator
from neuclip.objectives.estimators.recent_pairs import RecentPairs
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.margins import log_normalizers, log_weights, scaled_margins


class Queue(Estimator):
    """Log-mean-exp over the features of the pairs seen last, as they were when they were seen.

    Definition: alpha_i = log(eps + mean_j exp((cos(anchor_i, q_j) - cos(own pair i)) / tau)) over
    the pairs held that are not the anchor's own; after use, the batch takes the oldest places.

    Source: MoCo's queue, here for the normalizer alone; loops in tests/oracles/estimators.py.
    """

    def __init__(
        self, num_pairs: int, feature_dim: int, *, eps: float, ratio_clamp: float | None
    ) -> None:
        super().__init__(eps=eps, ratio_clamp=ratio_clamp)
        self.pairs = RecentPairs(num_pairs, feature_dim)

    @property
    def is_ready(self) -> bool:
        """Tell whether a batch was taken in."""
        return self.pairs.num_seen > 0

    def forward(self, anchors: Anchors) -> Float[Tensor, "2 B"]:
        """Return alpha, nats; see `Estimator.forward`."""
        margins_SBC, is_own_BC = self.margins(anchors)
        weights_BC = log_weights(is_own_BC, margins_SBC.dtype)
        return log_normalizers(margins_SBC, weights_BC, self.eps)

    def margins(self, anchors: Anchors) -> tuple[Float[Tensor, "2 B C"], Bool[Tensor, "B C"]]:
        """Return the anchors' margins to what is held, and which of it is their own."""
        contrasts_SCD, ids_C = self.pairs.held()
        if anchors.features_SBD.requires_grad:
            contrasts_SCD = contrasts_SCD.clone()  # the ring is written to before backward
        margins_SBC = scaled_margins(
            anchors.features_SBD,
            contrasts_SCD.to(anchors.features_SBD.dtype),
            anchors.own_cosine_B,
            anchors.temperature,
        )
        return margins_SBC, anchors.sample_ids_B[:, None] == ids_C

    def update(
        self,
        batch: GlobalBatch,
        anchors: Anchors,
        log_batch_SB: Float[Tensor, "2 B"],
        alpha_SB: Float[Tensor, "2 B"],
    ) -> None:
        """Take the batch in."""
        del anchors, log_batch_SB, alpha_SB
        self.pairs.add(batch.contrasts_SGD.detach(), batch.sample_ids_G)
