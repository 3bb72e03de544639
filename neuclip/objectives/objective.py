"""What every objective is to the training step.

Legend: B local batch, D embedding width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuclip.distributed.collectives import require_equal_shapes
from neuclip.distributed.world import World
from neuclip.foundation.errors import ShapeError
from neuclip.objectives.temperature import Temperature


@dataclass(frozen=True)
class ObjectiveResult:
    """What one batch gave.

    Args:
        loss: scalar whose gradient, averaged over ranks, is that of the global-batch objective.
        log_normalizers: the estimates used, nats, without gradient, of the local image anchors
            and text anchors: log of (eps + mean over the other pairs of exp(margin / tau)).
        metrics: named statistics of the local batch, without gradient, on the features' device.
    """

    loss: Float[Tensor, ""]
    log_normalizers: tuple[Float[Tensor, " B"], Float[Tensor, " B"]] | None
    metrics: dict[str, float | Tensor]


class TrainableGroup(NamedTuple):
    """Parameters that the trainer's optimiser updates, without weight decay.

    Args:
        name: of the group, for logs.
        parameters: outside DDP, so the trainer averages their gradients over ranks.
        lr: learning rate; none = the encoders' rate.
    """

    name: str
    parameters: list[nn.Parameter]
    lr: float | None


class Objective(nn.Module, ABC):
    """A loss with its state; `state_dict` carries all of it.

    State is float32 whatever the features are; `.double()` makes it float64.

    Args:
        feature_dim: width D of the features.
        temperature: the learned temperature.
        temperature_lr: its learning rate; none = the encoders' rate.
        world: the ranks among which the global batch is split; all have the same local batch,
            which does not change during a run.
    """

    def __init__(
        self,
        feature_dim: int,
        temperature: Temperature,
        *,
        temperature_lr: float | None,
        world: World,
    ) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.learned_temperature = temperature
        self.temperature_lr = temperature_lr
        self.world = world
        self._agreed_shape: torch.Size | None = None

    @abstractmethod
    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> ObjectiveResult:
        """Return the loss of the local anchors against the global batch.

        In training mode this may update inner state; in evaluation mode it changes nothing.

        Args:
            image_features: unit-norm, may require grad.
            text_features: unit-norm, row b is of the same pair as image row b.
            sample_ids: int64, dense ids of the pairs.

        Raises:
            ShapeError: if the widths or the ranks' batches do not fit, or the global batch is 1.
        """

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """Return the present temperature, with gradient if it is learned."""
        return self.learned_temperature()

    def advance(self, step: int) -> None:  # noqa: ARG002  # objectives with a schedule read it
        """Close a training step, after the optimiser's update.

        Args:
            step: number of completed updates, this one included.
        """
        self.learned_temperature.clamp_()

    def trainable(self) -> list[TrainableGroup]:
        """Return what the trainer's optimiser has to update."""
        parameters = [p for p in self.learned_temperature.parameters() if p.requires_grad]
        if not parameters:
            return []
        return [TrainableGroup("temperature", parameters, self.temperature_lr)]

    def check_features(self, image_features: Tensor, text_features: Tensor) -> None:
        """Refuse features that do not fit.

        Ranks compare their batch once; a later change of shape is refused by the rank that sees
        it, which costs no communication.
        """
        shape = image_features.shape
        if shape != text_features.shape or shape[1] != self.feature_dim:
            raise ShapeError(
                f"expected image and text features [B, {self.feature_dim}], "
                f"found {list(shape)} and {list(text_features.shape)}"
            )
        if shape[0] * self.world.size < 2:
            raise ShapeError("a contrastive loss needs a global batch of at least 2, found 1")
        if self.world.size == 1:
            return
        if self._agreed_shape is None:
            require_equal_shapes(image_features, self.world)
            self._agreed_shape = shape
        elif shape != self._agreed_shape:
            raise ShapeError(
                f"rank {self.world.rank}: expected features {list(self._agreed_shape)} as in the "
                f"first batch, found {list(shape)}; keep the local batch fixed during a run"
            )
