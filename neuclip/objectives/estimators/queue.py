"""A queue of past features: the normalizer estimator without anything learned.

Legend: S side, B local anchors, C pairs held, D width, tau temperature.
"""

from jaxtyping import Float
from torch import Tensor

from neuclip.objectives.estimators.estimator import Anchors, Estimator, look_up
from neuclip.objectives.estimators.recent_pairs import RecentPairs
from neuclip.objectives.global_batch import GlobalBatch


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
        return look_up(anchors, *self.pairs.held(), eps=self.eps)

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
