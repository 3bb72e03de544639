"""What every normalizer estimator is to NeuCLIP.

Legend: S side (0 image anchors, 1 text anchors), B local anchors, G global batch, D width,
l log-normalizer over the batch, alpha its prediction.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuclip.objectives import blocks
from neuclip.objectives.config import IndexStrategy
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.margins import (
    add_eps,
    log_mean,
    log_normalizers,
    log_weights,
    scaled_margins,
)

IndexPrototypes = tuple[int, IndexStrategy]


@dataclass(frozen=True)
class Anchors:
    """The anchors to predict for, both sides, and the temperature at which."""

    features_SBD: Float[Tensor, "2 B D"]
    own_cosine_B: Float[Tensor, " B"]
    sample_ids_B: Int[Tensor, " B"]
    temperature: Float[Tensor, ""]

    @classmethod
    def of(cls, batch: GlobalBatch, temperature: Float[Tensor, ""]) -> "Anchors":
        """Return the local anchors of a batch."""
        return cls(batch.anchors_SBD, batch.own_cosine_B, batch.sample_ids_B, temperature)

    def table(
        self, contrasts_SCD: Float[Tensor, "2 C D"], ids_C: Int[Tensor, " C"]
    ) -> blocks.Table:
        """Return what sums over these contrasts are computed from, in blocks."""
        scaled_SBD = self.features_SBD / self.temperature
        return blocks.Table(scaled_SBD, contrasts_SCD, self.sample_ids_B, ids_C)

    def detached(self) -> "Anchors":
        """Return the same as constants."""
        return replace(
            self,
            features_SBD=self.features_SBD.detach(),
            own_cosine_B=self.own_cosine_B.detach(),
            temperature=self.temperature.detach(),
        )


def look_up(
    anchors: Anchors,
    contrasts_SCD: Float[Tensor, "2 C D"],
    ids_C: Int[Tensor, " C"],
    *,
    eps: float,
) -> Float[Tensor, "2 B"]:
    """Return log(eps + mean over contrasts of other ids of exp(margin)), nats, with gradient to the anchors."""
    if anchors.features_SBD.requires_grad:
        contrasts_SCD = contrasts_SCD.clone()  # they may be written to before backward
    contrasts_SCD = contrasts_SCD.to(anchors.features_SBD.dtype)
    own_B, ids_B = anchors.own_cosine_B, anchors.sample_ids_B
    if blocks.are_many(2 * len(ids_B), len(ids_C)):
        table = anchors.table(contrasts_SCD, ids_C)
        log_counts_B = blocks.count_others(ids_B, ids_C).to(own_B.dtype).log()
        log_sums_SB = blocks.log_sums(table) - own_B / anchors.temperature
        return add_eps(log_mean(log_sums_SB, log_counts_B), eps)
    margins_SBC = scaled_margins(anchors.features_SBD, contrasts_SCD, own_B, anchors.temperature)
    weights_BC = log_weights(ids_B[:, None] == ids_C, margins_SBC.dtype)
    return log_normalizers(margins_SBC, weights_BC, eps)


class Estimator(nn.Module, ABC):
    """Predicts log-normalizers from what it kept of earlier batches.

    Args:
        eps: added to a mean of exponentials inside the log.
        ratio_clamp: largest exp(l - alpha) that learning from a batch counts with; none = no limit.
    """

    def __init__(self, *, eps: float, ratio_clamp: float | None) -> None:
        super().__init__()
        self.eps = eps
        self.max_log_ratio = math.inf if ratio_clamp is None else math.log(ratio_clamp)

    @property
    @abstractmethod
    def is_ready(self) -> bool:
        """Tell whether it holds anything to predict from."""

    @abstractmethod
    def forward(self, anchors: Anchors) -> Float[Tensor, "2 B"]:
        """Return alpha, nats, with gradient to the anchors; it changes nothing."""

    def wanted(self, step: int) -> IndexPrototypes | None:  # noqa: ARG002  # the network reads it
        """Return how many pairs of the sample index it needs before the next step, and how drawn.

        Args:
            step: completed steps.
        """
        return None

    def take(self, contrasts_SND: Float[Tensor, "2 N D"], sample_ids_N: Int[Tensor, " N"]) -> None:
        """Take those pairs: texts on side 0, images on side 1."""
        raise NotImplementedError(f"{type(self).__name__} asks for no pairs")

    def prepare(
        self, batch: GlobalBatch, anchors: Anchors, log_batch_SB: Float[Tensor, "2 B"], *, step: int
    ) -> None:
        """Learn from a batch before the prediction for it is used.

        Args:
            anchors: constants.
            log_batch_SB: l of the anchors, constant.
            step: completed steps before this batch.
        """

    def update(
        self,
        batch: GlobalBatch,
        anchors: Anchors,
        log_batch_SB: Float[Tensor, "2 B"],
        alpha_SB: Float[Tensor, "2 B"],
    ) -> None:
        """Take the batch in after the prediction for it was used.

        Args:
            alpha_SB: that prediction, constant.
        """

    @torch.no_grad()
    def ratios(
        self, log_batch: Float[Tensor, "*anchors"], alpha: Float[Tensor, "*anchors"]
    ) -> Float[Tensor, "*anchors"]:
        """Return exp(l - alpha), limited."""
        return (log_batch - alpha).clamp(max=self.max_log_ratio).exp()
