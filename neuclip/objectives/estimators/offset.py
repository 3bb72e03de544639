"""A closed-form correction of an estimator's bias, one number a side.

Legend: S side, B local anchors, l batch log-normalizer, alpha prediction without the offset.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.distributed.collectives import all_reduce_mean_
from neuclip.distributed.world import World
from neuclip.objectives.estimators.estimator import Anchors, Estimator, IndexPrototypes
from neuclip.objectives.global_batch import GlobalBatch


class Offset(Estimator):
    """Adds log c to what another estimator predicts, c a moving mean of exp(l - alpha).

    Definition: c <- decay c + (1 - decay) mean_i exp(l_i - alpha_i), with exp limited as in
    learning; c starts at 1. The mean exponential of a fixed prediction's residual is the offset
    that minimises the conjugate objective, so no step size is needed. A prediction is used before
    its batch moves c.

    Source: minimiser of mean_i [exp(l_i - alpha_i - b) + alpha_i + b - 1] over b.
    """

    log_offset_S: Tensor

    def __init__(
        self, inner: Estimator, *, decay: float, eps: float, ratio_clamp: float | None, world: World
    ) -> None:
        super().__init__(eps=eps, ratio_clamp=ratio_clamp)
        self.inner = inner
        self.decay = decay
        self.world = world
        self.register_buffer("log_offset_S", torch.zeros(2))

    @property
    def is_ready(self) -> bool:
        """Tell whether the inner estimator is."""
        return self.inner.is_ready

    def forward(self, anchors: Anchors) -> Float[Tensor, "2 B"]:
        """Return the inner prediction plus log c; see `Estimator.forward`."""
        alpha_SB = self.inner(anchors)
        return alpha_SB + self.log_offset_S[:, None].to(alpha_SB.dtype)

    def wanted(self, step: int) -> IndexPrototypes | None:
        """Return what the inner estimator needs."""
        return self.inner.wanted(step)

    def take(self, contrasts_SND: Float[Tensor, "2 N D"], sample_ids_N: Int[Tensor, " N"]) -> None:
        """Hand the pairs on."""
        self.inner.take(contrasts_SND, sample_ids_N)

    def prepare(
        self, batch: GlobalBatch, anchors: Anchors, log_batch_SB: Float[Tensor, "2 B"], *, step: int
    ) -> None:
        """Pass the batch on: the inner estimator is trained as if there were no offset."""
        self.inner.prepare(batch, anchors, log_batch_SB, step=step)

    @torch.no_grad()
    def update(
        self,
        batch: GlobalBatch,
        anchors: Anchors,
        log_batch_SB: Float[Tensor, "2 B"],
        alpha_SB: Float[Tensor, "2 B"],
    ) -> None:
        """Move c by the batch."""
        inner_SB = alpha_SB - self.log_offset_S[:, None]
        self.inner.update(batch, anchors, log_batch_SB, inner_SB)
        ratios_S = all_reduce_mean_(self.ratios(log_batch_SB, inner_SB).mean(dim=1), self.world)
        offset_S = self.decay * self.log_offset_S.exp() + (1 - self.decay) * ratios_S
        self.log_offset_S.copy_(offset_S.log())
