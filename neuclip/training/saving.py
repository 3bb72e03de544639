"""What a checkpoint of a trainer holds, and how a trainer takes it back."""

import math
from pathlib import Path
from typing import Any, cast

import torch

from neuclip.checkpoint.folder import STATE, CheckpointRecord, read_record, write_checkpoint
from neuclip.checkpoint.state import load_state, save_state
from neuclip.foundation.errors import CheckpointError
from neuclip.towers.folder import save_towers
from neuclip.training.optimiser import load_optimiser_state, optimiser_state
from neuclip.training.trainer import Trainer

SharedState = dict[str, dict[str, Any]]


def shared_state(trainer: Trainer) -> SharedState:
    """Put together the state that is shared out over ranks; every rank calls it."""
    shadows = trainer.shadows
    return {
        "objective": trainer.objective.whole_state(),
        "shadows": {} if shadows is None else shadows.whole_state(),
    }


def save_trainer(
    trainer: Trainer,
    checkpoints: Path,
    *,
    shared: SharedState,
    train_key: str,
    scheduled: bool,
) -> Path:
    """Write a checkpoint folder of the present step.

    Args:
        shared: what all ranks have put together.
    """
    record = CheckpointRecord(
        step=trainer.step,
        samples_seen=trainer.samples_seen,
        train_key=train_key,
        scheduled=scheduled,
    )

    def fill(folder: Path) -> None:
        with torch.no_grad():
            logit_scale = -math.log(trainer.objective.temperature.item())
            cast("Any", trainer.towers.model).logit_scale.fill_(logit_scale)
        save_towers(trainer.towers, folder)
        state = {
            "model": trainer.towers.model.state_dict(),
            **shared,
            "optimiser": optimiser_state(trainer.optimiser),
            "corrupt": torch.tensor(sorted(trainer.corrupt), dtype=torch.int64),
        }
        save_state(state, folder / STATE)

    return write_checkpoint(checkpoints, record, fill)


def restore_trainer(trainer: Trainer, folder: Path) -> None:
    """Put a trainer where it was when the checkpoint was written.

    Raises: CheckpointError: if the state does not fit this recipe's model or objective.
    """
    state = load_state(folder / STATE)
    try:
        trainer.towers.model.load_state_dict(state["model"])
        trainer.objective.load_whole_state(state["objective"])
        if trainer.shadows is not None:
            trainer.shadows.load_whole_state(state["shadows"])
        load_optimiser_state(trainer.optimiser, state["optimiser"])
        trainer.corrupt.update(state["corrupt"].tolist())
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the state in {folder} does not fit this recipe: {error}") from error
    trainer.step = read_record(folder).step
