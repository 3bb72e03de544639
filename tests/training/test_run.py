"""Oracle: an undisturbed run, and what the recipe promises of it."""

import hashlib
import math
import re
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.runs import (
    SMALL_NETWORK,
    kill_rank_when,
    make_config,
    metrics,
    signal_rank_when,
    train,
    weights,
)

from neuclip.foundation.errors import CheckpointError, ChildError, DataError, StoppedError
from neuclip.index.reader import read_samples
from neuclip.loading.order import BatchOrder
from neuclip.towers.folder import load_towers
from neuclip.towers.model import create_towers
from neuclip.training.meter import PASSING


@pytest.mark.slow
def test_the_ledger_and_the_log_say_what_happened(packed, whole_run):
    folder, manifest = whole_run
    count = read_samples(packed.index).count
    steps = math.ceil(3 * count / 16)
    assert (manifest.ledger.entered, manifest.ledger.out, manifest.ledger.dropped) == (
        count,
        count,
        {},
    )
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert lines[-1]["samples_seen"] == steps * 16
    wanted = {
        "loss",
        "temperature",
        "lr",
        "samples_per_s",
        "data_wait",
        "sample_ids_sha256",
        "ratio_mean",
    }
    assert wanted <= set(lines[0])
    assert all(line["normalizer_mse"] >= 0 for line in lines if "normalizer_mse" in line)
    assert sum("normalizer_mse" in line for line in lines) >= 3
    for name in ("normalizer", "normalizer_batch", "normalizer_implied", "observer_queue"):
        assert {f"{name}_{kind}" for kind in ("mse", "bias", "correlation")} <= set(lines[20])
    # At the first step the averages hold nothing but the batch, whose samples are not the anchors.
    assert lines[-1]["observer_fastclip_mse"] > 0
    assert list((folder / "tensorboard").glob("events.*"))
    kept = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert kept == [f"step-{s:08d}" for s in [*range(8, steps, 8), steps]]


def test_the_batches_are_those_of_the_order(packed, whole_run):
    table = read_samples(packed.index)
    order = BatchOrder(np.bincount(table.shard), seed=5, streams=4, global_batch=16)
    for line in metrics(whole_run[0])[::7]:
        ids = np.array([s for _, s in order.batch(line["step"] - 1)], dtype="<i8")
        assert line["sample_ids_sha256"] == hashlib.sha256(ids.tobytes()).hexdigest()


def test_a_checkpoint_is_an_open_clip_model_with_the_learned_temperature(whole_run):
    folder, _ = whole_run
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    towers = load_towers(last)
    temperature = metrics(folder)[-1]["temperature"]  # of the last forward pass, one update ago
    assert towers.model.logit_scale.exp().item() == pytest.approx(1 / temperature, rel=2e-3)
    start = create_towers(make_config().model, seed=5)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(start.model.parameters(), towers.model.parameters(), strict=True)
    ]
    assert all(moved)


def lasting(lines):
    """Everything that is logged but speeds; an observer may know nothing yet, which is nan."""
    return [
        {name: str(value) for name, value in line.items() if name not in PASSING} for line in lines
    ]


@pytest.mark.slow
@pytest.mark.parametrize("at_step", [5, 19])
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(packed, whole_run, tmp_path, at_step):
    saved = tmp_path / "train" / "k" / "checkpoints"

    def is_time(
        line,
    ):  # checkpoints are written beside the training: which is the last one depends on the machine
        return line["step"] >= at_step and (at_step < 8 or any(saved.glob("step-*")))

    killer = kill_rank_when(tmp_path / "train" / "k", is_time)
    with pytest.raises(ChildError, match="SIGKILL"):
        train(tmp_path, packed, make_config())
    killer.join()
    assert not (tmp_path / "train" / "k" / "manifest.json").exists()
    folder, manifest = train(tmp_path, packed, make_config())
    assert manifest.summary["resumed_at"] in ([0] if at_step < 8 else [8, 16])
    assert weights(folder) == weights(whole_run[0])
    assert lasting(metrics(folder)) == lasting(metrics(whole_run[0]))


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe_is_refused(packed, tmp_path, whole_run):
    source = whole_run[0] / "checkpoints"
    target = tmp_path / "train" / "other" / "checkpoints"
    target.parent.mkdir(parents=True)
    target.symlink_to(source)
    with pytest.raises(
        CheckpointError, match="another recipe: it belongs to train key k, this run is other"
    ):
        train(tmp_path, packed, make_config(), key="other")


def test_a_caption_source_that_no_sample_has_is_refused_before_anything_runs(packed, tmp_path):
    with pytest.raises(DataError, match=r"'rewrit'.*alt, rewrite.*Did you mean 'rewrite'"):
        train(
            tmp_path, packed, make_config(captions={"kind": "per_source", "weights": {"rewrit": 1}})
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_see_the_same_batches_and_end_with_the_same_loss(packed, tmp_path):
    settings = {"name": "neuclip", "estimator": SMALL_NETWORK}
    logs = []
    for processes in (1, 2):
        config = make_config(
            objective=settings,
            launch={"processes": processes},
            loader={"workers": 0},
            log_every_steps=3,
        )
        folder, _ = train(tmp_path / str(processes), packed, config)
        logs.append(metrics(folder))
        last = sorted((folder / "checkpoints").glob("step-*"))[-1]
        assert load_file(last / "open_clip_model.safetensors")
    one, two = logs
    assert [a["sample_ids_sha256"] for a in one] == [b["sample_ids_sha256"] for b in two]
    assert len(one) > 10
    assert ["normalizer_mse" in line for line in one] == ["normalizer_mse" in line for line in two]
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_of_one_rank_goes_on_with_two_although_state_is_shared_out(packed, tmp_path):
    """Oracle: the run of one rank that nothing disturbed; fastclip has numbers for every sample."""
    settings = {"name": "fastclip", "gamma_decay_epochs": 1}
    config = make_config(objective=settings, loader={"workers": 0})
    whole, _ = train(tmp_path / "whole", packed, config)
    killer = kill_rank_when(tmp_path / "cut" / "train" / "k", lambda line: line["step"] >= 19)
    with pytest.raises(ChildError):
        train(tmp_path / "cut", packed, config)
    killer.join()
    config = make_config(objective=settings, loader={"workers": 0}, launch={"processes": 2})
    folder, manifest = train(tmp_path / "cut", packed, config)
    assert manifest.summary["resumed_at"] == 16
    for a, b in zip(metrics(folder), metrics(whole), strict=True):
        assert a["sample_ids_sha256"] == b["sample_ids_sha256"]
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_killed_resume_to_the_bit(packed, tmp_path):
    config = make_config(launch={"processes": 2}, loader={"workers": 0}, probe=None)
    whole, _ = train(tmp_path / "whole", packed, config)
    killer = kill_rank_when(tmp_path / "cut" / "train" / "k", lambda line: line["step"] >= 12)
    with pytest.raises(ChildError):
        train(tmp_path / "cut", packed, config)
    killer.join()
    folder, manifest = train(tmp_path / "cut", packed, config)
    assert manifest.summary["resumed_at"] == 8
    assert weights(folder) == weights(whole)


@pytest.mark.slow
def test_saving_by_the_clock_changes_nothing_that_is_kept(packed, whole_run, tmp_path):
    folder, _ = train(tmp_path, packed, make_config(save_every_minutes=1e-6))
    assert weights(folder) == weights(whole_run[0])
    names = [
        sorted(path.name for path in (run / "checkpoints").glob("step-*"))
        for run in (folder, whole_run[0])
    ]
    assert names[0] == names[1]


@pytest.mark.slow
def test_a_run_asked_to_stop_saves_first_and_goes_on_from_there(packed, whole_run, tmp_path):
    sent = signal_rank_when(
        tmp_path / "train" / "k", lambda line: line["step"] >= 10, signal.SIGTERM
    )
    with pytest.raises(
        StoppedError, match=r"stopped by a signal, saved at step \d+; run the same command"
    ) as stop:
        train(tmp_path, packed, make_config(save_every_steps=1000))
    sent.join()
    step = int(re.search(r"at step (\d+)", str(stop.value)).group(1))
    folder, manifest = train(tmp_path, packed, make_config(save_every_steps=1000))
    assert step >= 10
    assert manifest.summary["resumed_at"] == step
    assert weights(folder) == weights(whole_run[0])
