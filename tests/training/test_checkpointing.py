"""Checkpoints that are written while training goes on; faults are put where a disk or a user would put them."""

import hashlib
import json

import pytest
from training.runs import make_config, metrics, train_here, weights

from neuclip.checkpoint.folder import checkpoint_names, read_record
from neuclip.foundation.errors import CheckpointError, StoppedError, StorageError
from neuclip.training import checkpointing
from neuclip.training.job import TrainResult

QUICK = {"loader": {"workers": 0}, "probe": None, "epochs": 2, "save_every_steps": 4}


def test_the_best_by_held_out_recall_is_kept_besides_the_last(packed, tmp_path):
    every = make_config(**QUICK, keep_checkpoints=50)
    train_here(tmp_path / "all", packed, every)
    checkpoints = tmp_path / "all" / "checkpoints"
    scores = {name: read_record(checkpoints / name).score for name in checkpoint_names(checkpoints)}
    assert all(score is not None and 0 <= score <= 1 for score in scores.values())
    written = {
        line["step"]: line["held_out_recall"]
        for line in metrics(tmp_path / "all")
        if "held_out_recall" in line
    }
    assert written == {int(name.removeprefix("step-")): score for name, score in scores.items()}
    best = max(scores, key=lambda name: (scores[name], name))
    train_here(tmp_path / "few", packed, make_config(**QUICK, keep_checkpoints=1, keep_best=1))
    assert checkpoint_names(tmp_path / "few" / "checkpoints") == sorted({best, max(scores)})


def test_nothing_is_measured_where_no_best_is_kept(packed, tmp_path):
    train_here(tmp_path, packed, make_config(**QUICK, keep_best=0))
    assert not any("held_out_recall" in line for line in metrics(tmp_path))


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_the_one_before_is_whole(
    packed, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    train_here(whole, packed, make_config(**QUICK))
    sound = checkpointing.write_snapshot

    def full_disk(snapshot, checkpoints):
        if snapshot.record.step == 12:
            raise StorageError("No space left on device")
        return sound(snapshot, checkpoints)

    monkeypatch.setattr(checkpointing, "write_snapshot", full_disk)
    cut = tmp_path / "cut"
    with pytest.raises(StorageError, match="No space left"):
        train_here(cut, packed, make_config(**QUICK))
    assert (
        json.loads((cut / "checkpoints" / "latest.json").read_text())["checkpoint"]
        == "step-00000008"
    )
    monkeypatch.undo()
    assert train_here(cut, packed, make_config(**QUICK)).resumed_at == 8
    assert weights(cut) == weights(whole)


def test_a_disk_too_small_for_the_kept_checkpoints_is_refused_before_the_first_step(
    packed, tmp_path
):
    with pytest.raises(
        StorageError, match=r"checkpoints of 0\.0\d+ GB each need .*lower train\.keep_checkpoints"
    ):
        train_here(tmp_path, packed, make_config(**QUICK, keep_checkpoints=10**9))
    assert not metrics(tmp_path)


@pytest.mark.parametrize("damage", ["half", "hostile"])
def test_a_checkpoint_that_is_half_or_not_ours_is_refused_and_nothing_in_it_is_run(
    packed, tmp_path, damage
):
    train_here(tmp_path, packed, make_config(**QUICK))
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    state = newest / "state.safetensors"
    if damage == "half":
        state.write_bytes(state.read_bytes()[:100])
    else:
        marker = tmp_path / "was-run"
        state.write_bytes(b"cbuiltins\nexec\n(Vopen(%r, 'w')\ntR." % str(marker).encode())
    with pytest.raises(CheckpointError, match=r"state\.safetensors is not what was saved"):
        train_here(tmp_path, packed, make_config(**QUICK))
    assert not (tmp_path / "was-run").exists()


def test_a_budget_stops_the_run_with_a_checkpoint_and_more_money_goes_on_from_it(packed, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_here(whole, packed, make_config(**QUICK))
    poor = {"price_per_hour": 3600.0, "budget": 1e-6}
    with pytest.raises(StoppedError, match=r"stopped by its budget of 1e-06, saved at step 1; run"):
        train_here(cut, packed, make_config(**QUICK, telemetry=poor))
    spent = metrics(cut)[-1]["cost"]
    assert spent > 0
    rich = poor | {"budget": 1e6}
    result = train_here(cut, packed, make_config(**QUICK, telemetry=rich))
    assert result.resumed_at == 1
    assert metrics(cut)[-1]["cost"] > spent
    assert weights(cut) == weights(whole)


def test_a_run_that_is_done_and_lost_its_manifest_changes_nothing(packed, tmp_path):
    """A rank that is killed between its last checkpoint and its result resumes at its last step."""
    first = train_here(tmp_path, packed, make_config(**QUICK))
    before = weights(tmp_path)
    result = train_here(tmp_path, packed, make_config(**QUICK))
    assert result == first.model_copy(update={"resumed_at": result.steps})
    assert TrainResult.model_validate_json(result.model_dump_json()) == result
    assert first.final_loss == metrics(tmp_path)[-1]["loss"]
    assert weights(tmp_path) == before


def test_a_checkpoint_of_the_code_before_is_told_as_such(packed, tmp_path):
    """Its record named no phase."""
    config = make_config(**QUICK)
    train_here(tmp_path, packed, config)
    last = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    record = json.loads((last / "checkpoint.json").read_text())
    del record["phase"]
    content = json.dumps(record).encode()
    (last / "checkpoint.json").write_bytes(content)
    pointer = {"checkpoint": last.name, "record_sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "checkpoints" / "latest.json").write_text(json.dumps(pointer))
    with pytest.raises(
        CheckpointError, match=r"of this release: wrong are phase; if another .* go on there"
    ):
        train_here(tmp_path, packed, config)
