"""Oracles: the run without phases, the run that nothing stopped, the checkpoint at the switch."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from training.runs import make_config, metrics, train, train_here, weights

from neuclip.checkpoint.state import load_state
from neuclip.distributed.world import World
from neuclip.foundation.errors import StoppedError
from neuclip.training import loop
from neuclip.training.config import TrainConfig
from neuclip.training.phases import phase_at, plan_phases
from neuclip.training.schedule import learning_rate

QUICK = {
    "loader": {"workers": 0},
    "probe": None,
    "keep_best": 0,
    "objective": {"name": "openclip"},
    "schedule": "constant",
    "warmup_steps": 0,
}


def run_of(folder, packed, **changes):
    return train_here(folder, packed, make_config(**QUICK, **changes))


def phased(*phases, **changes):
    config = make_config(**{**QUICK, **changes}).model_dump(mode="json")
    del config["epochs"]
    return TrainConfig.model_validate({**config, "phases": list(phases)})


def numbers(folder):
    return [
        (line["step"], line["loss"], line["lr"], line["samples_seen"]) for line in metrics(folder)
    ]


def test_two_phases_of_one_epoch_equal_a_run_of_two(packed, tmp_path):
    whole = run_of(tmp_path / "whole", packed, epochs=2)
    config = phased({"epochs": 1}, {"epochs": 1})
    found = train_here(tmp_path / "phases", packed, config)
    assert found == whole
    assert numbers(tmp_path / "phases") == numbers(tmp_path / "whole")
    ours, theirs = (weights(tmp_path / name) for name in ("phases", "whole"))
    assert ours["open_clip_model.safetensors"] == theirs["open_clip_model.safetensors"]


@pytest.mark.parametrize("objective", ["neuclip", "fastclip", "siglip"])
def test_every_loss_is_told_that_a_phase_begins(packed, tmp_path, objective):
    config = phased({"epochs": 1}, {"epochs": 1}, objective={"name": objective})
    train_here(tmp_path, packed, config)
    last = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    steps, begun = load_state(last / "state.safetensors")["objective"]["_extra_state"].tolist()
    first, second = plan_phases(config, packed_count(packed))
    assert (steps, begun) == (second.last, first.last)


def packed_count(packed):
    from neuclip.index.reader import read_samples

    return read_samples(packed.index).count


SMALL_THEN_LARGE = (
    {"epochs": 1, "image_px": 8, "context_length": 8, "lr": 2e-3, "warmup_steps": 2},
    {"epochs": 1, "global_batch": 8, "schedule": "cosine", "lr": 5e-4, "micro_batch": 4},
)


def test_a_phase_has_its_own_sizes_rates_and_batch(packed, tmp_path):
    config = phased(*SMALL_THEN_LARGE)
    train_here(tmp_path, packed, config)
    first, second = plan_phases(config, packed_count(packed))
    lines = numbers(tmp_path)
    assert [step for step, *_ in lines] == list(range(1, second.last + 1))
    for step, _, rate, seen in lines:
        phase = first if step <= first.last else second
        within, total = step - 1 - phase.first, phase.last - phase.first
        settings = {"peak": phase.config.lr, "least": 0.0, "warmup_steps": 2 * (phase is first)}
        kind = "constant" if phase is first else "cosine"
        assert rate == learning_rate(within, total_steps=total, schedule=kind, **settings)
        assert seen == phase.samples_before + (within + 1) * phase.config.global_batch
    folders = sorted((tmp_path / "checkpoints").glob("step-*"))
    for folder in folders:
        model = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        record = json.loads((folder / "checkpoint.json").read_text())
        is_first = record["step"] <= first.last
        assert record["phase"] == (0 if is_first else 1)
        assert model["vision_cfg"]["image_size"] == (8 if is_first else 16)
        assert model["text_cfg"]["context_length"] == (8 if is_first else 12)
        tensors = load_file(folder / "open_clip_model.safetensors")
        assert len(tensors["visual.positional_embedding"]) == (2 if is_first else 5)
        assert len(tensors["positional_embedding"]) == (8 if is_first else 12)
    assert folder_of_switch(tmp_path, first.last).is_dir()


def folder_of_switch(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


@pytest.mark.parametrize(
    "distance",
    [-1, 0, *(pytest.param(later, marks=pytest.mark.slow) for later in (1, 3))],
)
def test_a_run_stopped_on_either_side_of_a_switch_goes_on_to_the_same_bits(
    packed, tmp_path, monkeypatch, distance
):
    config = phased(*SMALL_THEN_LARGE, ema_decay=0.9, objective={"name": "neuclip"})
    train_here(tmp_path / "whole", packed, config)
    switch = plan_phases(config, packed_count(packed))[0].last
    sound = loop._Run._step

    def step(self, batch):
        if self.trainer.step == switch + distance and not self.begun_at:
            signal.raise_signal(signal.SIGTERM)
        sound(self, batch)

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(StoppedError, match=f"saved at step {switch + distance + 1}"):
        train_here(tmp_path / "cut", packed, config)
    result = train_here(tmp_path / "cut", packed, config)
    assert result.resumed_at == switch + distance + 1
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_two_ranks_go_through_a_switch_as_one_does(packed, tmp_path):
    config = phased(*SMALL_THEN_LARGE)
    one, _ = train(tmp_path / "one", packed, config)
    two, _ = train(
        tmp_path / "two",
        packed,
        config.model_copy(update={"launch": config.launch.model_copy(update={"processes": 2})}),
    )
    for ours, theirs in zip(metrics(two), metrics(one), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["sample_ids_sha256"] == theirs["sample_ids_sha256"]


def test_positions_and_moments_are_carried_over(packed, tmp_path):
    """Moments of the tables that were interpolated begin anew, all others go on."""
    config = phased(
        {"epochs": 1, "image_px": 8},
        {"epochs": 0.1, "lr": 1e-30},
        save_every_steps=1000,
        optimiser="adamw",
    )
    train_here(tmp_path, packed, config)
    first, second = plan_phases(config, packed_count(packed))
    before, after = (
        load_state(folder_of_switch(tmp_path, step) / "state.safetensors")
        for step in (first.last, second.last)
    )
    table, fitted = (s["model"]["visual.positional_embedding"] for s in (before, after))
    torch.testing.assert_close(fitted[0], table[0], rtol=1e-6, atol=1e-7)  # the class token's row
    # One patch became four: each has its position.
    torch.testing.assert_close(fitted[1:], table[1:].expand(4, -1), rtol=1e-6, atol=1e-7)
    steps = {name: int(m["step"]) for name, m in after["optimiser"]["moments"].items()}
    taken = second.last - first.last
    assert sorted(set(steps.values())) == [taken, second.last]
    assert list(steps.values()).count(taken) == 1


def test_the_plan_of_phases():
    config = phased({"epochs": 0.5}, {"epochs": 1.5, "global_batch": 32}, {"epochs": 0.01})
    phases = plan_phases(config, 162)
    assert [(p.first, p.last, p.samples_before) for p in phases] == [
        (0, 6, 0),
        (6, 14, 96),
        (14, 15, 352),
    ]
    assert [phase_at(phases, step).number for step in (0, 5, 6, 13, 14, 15)] == [0, 0, 1, 1, 2, 2]
    assert phases[1].samples_seen(8) == 96 + 64
    assert math.isclose(config.by_phase()[1].epochs, 1.5)
    assert make_config().by_phase() == [make_config()]


@pytest.mark.parametrize(
    ("phases", "changes", "message"),
    [
        ([{"epochs": 1}], {"epochs": 3}, "epochs is 3, and the phases are 1 epochs together"),
        ([{"epochs": 1}, {"epochs": 1, "global_batch": 6}], {}, r"phases\[1\]: global_batch 6"),
        ([{"epochs": 1, "lr": 1e-4, "min_lr": 1e-3}], {}, r"phases\[0\]: min_lr 0.001 is above"),
        ([{"epochs": 1, "cooldown_steps": 3, "schedule": "cosine"}], {}, "constant schedule"),
        ([{"epochs": 1, "image_size": 8}], {}, "Extra inputs"),
    ],
)
def test_phases_that_do_not_fit_are_refused(phases, changes, message):
    settings = {**make_config(**QUICK).model_dump(mode="json"), "phases": phases}
    del settings["epochs"]
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(settings | changes)


def test_moving_averages_of_another_batch_size_are_replaced(packed, tmp_path):
    """In the first epoch of a phase their rate is 1: what a phase with other batches has left plays no part."""
    phases = ({"epochs": 1}, {"epochs": 1, "global_batch": 8})
    fast = {"name": "fastclip", "version": "v1", "gamma_decay_epochs": 1}
    config = phased(*phases, objective=fast, save_every_steps=1000)
    train_here(tmp_path, packed, config)
    first, second = plan_phases(config, packed_count(packed))
    before, after = (
        load_state(folder_of_switch(tmp_path, step) / "state.safetensors")
        for step in (first.last, second.last)
    )
    job_state = {**before, "objective": {**before["objective"]}}
    [table] = [name for name in job_state["objective"] if name.endswith(".rows_RC")]
    job_state["objective"][table] = (
        job_state["objective"][table] + 3.0
    )  # as if its means had been others
    world = World.single()
    samples, trainer = second_phase(packed, second, job_state, world)
    for batch in samples:
        trainer.update(batch)
    trainer.settle()
    visited = (before["objective"][table] != after["objective"][table]).any(dim=1)
    found = trainer.objective.whole_state()[table]
    assert torch.equal(found[visited], after["objective"][table][visited])
    assert 150 < visited.sum() < len(found)


def second_phase(packed, phase, state, world):
    """A trainer at the start of a phase with a changed state, and the phase's batches."""
    from neuclip.training.job import TrainJob
    from neuclip.training.optimiser import load_optimiser_state
    from neuclip.training.parts import make_parts

    job = TrainJob(
        config=phase.config,
        seed=5,
        train_key="k",
        index_uri=packed.index,
        shard_uri=packed.shard,
        run_uri="unused",
    )
    from neuclip.index.reader import read_samples

    parts = make_parts(job, world, phase, read_samples(packed.index))
    trainer = parts.trainer
    trainer.load_model_state(state["model"])
    trainer.objective.load_whole_state(state["objective"])
    load_optimiser_state(trainer.optimiser, state["optimiser"])
    trainer.start_phase()
    batches = (
        parts.samples.__getitems__(parts.order.batch(step))
        for step in range(phase.first, phase.last)
    )
    return batches, trainer
