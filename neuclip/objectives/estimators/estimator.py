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

from neuclip.objectives.config import IndexStrategy
from neuclip.objectives.global_batch import GlobalBatch

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

    def detached(self) -> "Anchors":
        """Return the same as constants."""
        return replace(
            self,
            features_SBD=self.features_SBD.detach(),
            own_cosine_B=self.own_cosine_B.detach(),
            temperature=self.temperature.detach(),
        )


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
