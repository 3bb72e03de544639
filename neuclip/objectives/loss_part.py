"""What the trainer asks of every part of the loss: the objective, and the terms beside it."""

from abc import ABC
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuclip.distributed.world import World
from neuclip.foundation.errors import CheckpointError
from neuclip.objectives.per_sample import PerSample


class TrainableGroup(NamedTuple):
    """Parameters that the trainer's optimiser updates beside the encoders.

    Args:
        name: of the group, for logs.
        parameters: outside DDP, so the trainer averages their gradients over ranks.
        lr: learning rate; none = the encoders' rate.
        lr_factor: what that rate is multiplied by at present; a tensor where only the device knows it.
        decays: whether the recipe's weight decay is for them.
    """

    name: str
    parameters: list[nn.Parameter]
    lr: float | None
    lr_factor: float | Tensor = 1.0
    decays: bool = False


class LossPart(nn.Module, ABC):
    """A part of the loss with its parameters, its state and its clock.

    Args:
        feature_dim: width D of the features.
        num_samples: pairs in the data set, n.
        world: the ranks among which the global batch is split.
    """

    def __init__(self, *, feature_dim: int, num_samples: int, world: World) -> None:
        super().__init__()
        self.feature_dim, self.num_samples, self.world = feature_dim, num_samples, world
        self.completed_steps = 0
        self.phase_start = 0

    def trainable(self) -> list[TrainableGroup]:
        """Return what the trainer's optimiser has to update, with the rates of the next update."""
        return []

    def advance(self, step: int) -> None:
        """Close a training step, after the optimiser's update.

        Args:
            step: number of completed updates, this one included.
        """
        self.completed_steps = step

    def start_phase(self) -> None:
        """Begin a new phase of training, in which features differ from before (resolution, tokens).

        Schedules over epochs begin anew, so that estimates of the phase before are replaced.
        """
        self.phase_start = self.completed_steps

    @property
    def is_warming(self) -> bool:
        """Tell whether the next update is for the inner state of this part alone: no weight of the run moves."""
        return False

    @property
    def steps_of_phase(self) -> int:
        """Return the number of completed steps in this phase."""
        return self.completed_steps - self.phase_start

    def get_extra_state(self) -> Tensor:
        """Return the clock; a tensor, as all state."""
        return torch.tensor([self.completed_steps, self.phase_start])

    def set_extra_state(self, state: Tensor) -> None:
        """Take the clock from a saved state."""
        self.completed_steps, self.phase_start = (int(value) for value in state)

    def whole_state(self) -> dict[str, Any]:
        """Return the state of all ranks joined, the same at any number of ranks; all must call it."""
        state = self.state_dict()
        for name, table in self._tables():
            state[f"{name}.rows_RC"] = table.whole()
        return state

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Take this rank's part of what `whole_state` returned, at this or another number of ranks.

        Raises:
            CheckpointError: if it is of another kind or of another number of samples.
        """
        own = dict(state)
        try:
            for name, table in self._tables():
                own[f"{name}.rows_RC"] = table.share_of(state[f"{name}.rows_RC"])
            self.load_state_dict(own)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the saved state does not fit a {type(self).__name__} of {self.num_samples} "
                f"samples with features of width {self.feature_dim}: {error}; "
                "load it with the recipe it was saved with, or start anew"
            ) from error

    def _tables(self) -> list[tuple[str, PerSample]]:
        return [
            (name, module) for name, module in self.named_modules() if isinstance(module, PerSample)
        ]
