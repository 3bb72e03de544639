"""What a checkpoint of a trainer holds, and how a trainer takes it back, or the trainer of the next phase."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuclip.checkpoint.folder import STATE, CheckpointRecord, read_record, write_checkpoint
from neuclip.checkpoint.state import copy_state, load_state, save_state
from neuclip.distributed.sharding import whole
from neuclip.foundation.errors import CheckpointError
from neuclip.towers.folder import write_towers
from neuclip.towers.positions import FIXED_TABLE, IMAGE_TABLES, TEXT_TABLES, resized
from neuclip.towers.towers import Towers
from neuclip.training.optimiser import load_optimiser_state, named_parameters, optimiser_state
from neuclip.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A trainer at one step, as copies on the CPU: training may go on while it is written."""

    record: CheckpointRecord
    towers: Towers
    """Of these only what does not change: architecture and preprocessing."""
    weights: dict[str, Tensor]
    """The model as it is evaluated and published, with the objective's logit_scale and logit_bias."""
    state: dict[str, Tensor]
    """Everything training goes on from."""


def take_snapshot(
    trainer: Trainer, *, train_key: str, scheduled: bool, score: float | None = None
) -> Snapshot | None:
    """Copy a trainer's state; every rank calls it, the main rank gets the snapshot.

    Raises: NumericsError: if the batch of the last update was bad.
    """
    trainer.settle()
    observers = trainer.observers
    shared = {
        "objective": trainer.objective.whole_state(),
        "terms": trainer.terms.whole_state(),
        "observers": {} if observers is None else observers.whole_state(),
    }
    scale, bias = trainer.objective.logit_scale_and_bias()
    model, optimiser = trainer.model_state(), optimiser_state(trainer.optimiser)
    average = {} if trainer.average is None else trainer.average.state()
    statistics = {} if trainer.sample_statistics is None else trainer.sample_statistics.state()
    texts = trainer.texts.state()
    if not trainer.world.is_main:
        return None
    # In the model's own form, which may be one element instead of a scalar.
    logits = {"logit_scale": scale.reshape(model["logit_scale"].shape)}
    if "logit_bias" in model or bias is not None:
        bias = torch.zeros(()) if bias is None else bias
        logits["logit_bias"] = bias.reshape(model["logit_scale"].shape)
    state = {
        "model": model,
        **shared,
        "optimiser": optimiser,
        "average": average,
        "sample_statistics": statistics,
        "corrupt": torch.tensor(sorted(trainer.corrupt), dtype=torch.int64),
        "guard": trainer.guard.state(),
        "clip": {"norms": trainer.clip.state()},
        "texts": texts,
    }
    return Snapshot(
        record=CheckpointRecord(
            step=trainer.step,
            phase=trainer.phase.number,
            samples_seen=trainer.samples_seen,
            train_key=train_key,
            scheduled=scheduled,
            score=score,
            positions=tuple(trainer.positions),
        ),
        towers=trainer.towers,
        weights=copy_state(model | average | logits),
        state=copy_state(state),
    )


def write_snapshot(snapshot: Snapshot, checkpoints: Path) -> Path:
    """Write a snapshot as a checkpoint folder, verified before the pointer names it."""

    def fill(folder: Path) -> None:
        write_towers(snapshot.towers, snapshot.weights, folder)
        save_state(snapshot.state, folder / STATE)

    return write_checkpoint(checkpoints, snapshot.record, fill)


def restore_trainer(trainer: Trainer, folder: Path) -> None:
    """Put a trainer where it was when the checkpoint was written, or at the start of the phase after it.

    Raises: CheckpointError: if the state does not fit this recipe's model or losses.
    """
    record, state = read_record(folder), load_state(folder / STATE)
    is_next_phase = record.phase < trainer.phase.number
    trainer.positions = list(record.positions)
    if is_next_phase:
        state = _carried_over(state, trainer)
    try:
        trainer.load_model_state(state["model"])
        if trainer.average is not None:
            trainer.average.load_state(state["average"])
        trainer.objective.load_whole_state(state["objective"])
        trainer.terms.load_whole_state(state.get("terms", {}))
        if trainer.observers is not None:
            trainer.observers.load_whole_state(state["observers"])
        if trainer.sample_statistics is not None:
            trainer.sample_statistics.load_state(state["sample_statistics"])
        load_optimiser_state(trainer.optimiser, state["optimiser"])
        trainer.corrupt.update(state["corrupt"].tolist())
        trainer.guard.load_state(state["guard"])
        trainer.clip.load_state(state["clip"]["norms"])
        trainer.texts.load_state(state.get("texts", {}))
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the state in {folder} does not fit this recipe: {error}") from error
    trainer.step = record.step
    if is_next_phase:
        trainer.start_phase()
        for note in trainer.positions[len(record.positions) :] if trainer.world.is_main else ():
            log.info("phase %d, %s", trainer.phase.number, note)


def _carried_over(state: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Return a checkpoint's state as the next phase's trainer takes it.

    Positions are interpolated or made anew where image size or text length differ, in the weights and in their
    averages; the optimiser's moments of such a table begin anew, since those of other places say nothing. Averages of
    what is learned from here on begin with its weights. All else stays.

    Raises: CheckpointError: if a table cannot be interpolated.
    """
    model = _fitted(state["model"], trainer, trainer.positions)
    state = {**state, "model": model}
    if trainer.average is not None:
        average = _fitted(state.get("average", {}), trainer, [])
        state["average"] = {name: average.get(name, model[name]) for name in trainer.average.names}
    moments_of = state["optimiser"].get("moments", {})
    if trainer.config.learn_positions and FIXED_TABLE not in moments_of:
        trainer.positions.append(
            f"step {trainer.phase.first}: {FIXED_TABLE} is learned from here on"
        )
    moments = {
        name: _zeroed(moments_of[name], parameter.shape)
        for name, parameter in named_parameters(trainer.optimiser).items()
        if name in moments_of
    }
    return {**state, "optimiser": {**state["optimiser"], "moments": moments}}


def _fitted(tensors: dict[str, Tensor], trainer: Trainer, notes: list[str]) -> dict[str, Tensor]:
    """Return tensors by the model's names with tables of positions of its size; add to the notes what was done."""
    fitted, step = dict(tensors), trainer.phase.first
    for name in (*IMAGE_TABLES, *TEXT_TABLES):
        if name not in tensors:
            continue
        own = trainer.towers.model.get_parameter(name)
        is_anew = trainer.config.positions == "regenerate" and name == FIXED_TABLE
        if is_anew and own.shape != tensors[name].shape:
            table = whole(own.detach()).cpu()
        else:
            table = resized(name, tensors[name], trainer.towers.model)
        if table is None:
            raise CheckpointError(
                f"{name} is of shape {list(tensors[name].shape)}, which cannot be interpolated to the next phase's; "
                "use square images, and the same towers in all phases"
            )
        if table.shape != tensors[name].shape:
            how = "made anew" if is_anew else "interpolated"
            notes.append(
                f"step {step}: {name} was {how}, {list(tensors[name].shape)} became {list(table.shape)}"
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
