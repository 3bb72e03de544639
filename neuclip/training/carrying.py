"""From the end of one phase to the start of the next: tables of positions in the size that the next one has."""

from typing import Any

import torch
from torch import Tensor

from neuclip.foundation.errors import CheckpointError
from neuclip.towers.positions import IMAGE_TABLES, TEXT_TABLES, resized
from neuclip.training.trainer import Trainer


def carry_over(state: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Return a checkpoint's state as the next phase's trainer takes it.

    Positions are interpolated where image size or text length differ, in the weights and in their averages; the
    optimiser's moments of such a table begin anew, since those of other places say nothing. All else stays.

    Raises: CheckpointError: if a table cannot be interpolated.
    """
    state = {**state, "model": _fitted(state["model"], trainer)}
    if "average" in state:
        state["average"] = _fitted(state["average"], trainer)
    parameters = [p for group in trainer.optimiser.param_groups for p in group["params"]]
    moments = {
        number: _zeroed(found, parameters[int(number)].shape)
        for number, found in state["optimiser"].get("moments", {}).items()
    }
    return {**state, "optimiser": {**state["optimiser"], "moments": moments}}


def _fitted(tensors: dict[str, Tensor], trainer: Trainer) -> dict[str, Tensor]:
    """Return tensors by the model's names with tables of positions of its size."""
    fitted = dict(tensors)
    for name in {*IMAGE_TABLES, *TEXT_TABLES} & tensors.keys():
        table = resized(name, tensors[name], trainer.towers.model)
        if table is None:
            raise CheckpointError(
                f"{name} is of shape {list(tensors[name].shape)}, which cannot be interpolated to the next phase's; "
                "use square images, and the same towers in all phases"
            )
        fitted[name] = table
    return fitted


def _zeroed(moments: dict[str, Tensor], shape: torch.Size) -> dict[str, Tensor]:
    """Return a parameter's moments, as at the start if they are of another shape."""
    if all(value.shape in (shape, torch.Size([])) for value in moments.values()):
        return moments
    return {
        name: torch.zeros(shape, dtype=value.dtype) if value.ndim else torch.zeros_like(value)
        for name, value in moments.items()
    }
