"""Oracle: fault injection into folders on disk."""

import json

import pytest
import torch

from neuclip.checkpoint.folder import (
    CheckpointRecord,
    checkpoint_names,
    latest_checkpoint,
    prune_checkpoints,
    write_checkpoint,
)
from neuclip.checkpoint.state import copy_state, load_state, save_state
from neuclip.foundation.errors import CheckpointError, StorageError


def write(folder, step, *, scheduled=True, key="k", score=None):
    record = CheckpointRecord(
        phase=0, step=step, samples_seen=step * 8, train_key=key, scheduled=scheduled, score=score
    )
    return write_checkpoint(
        folder,
        record,
        lambda f: save_state({"a/b": torch.full((4,), float(step))}, f / "state.safetensors"),
    )


def test_state_survives_nested_and_exactly(tmp_path):
    state = {"x": torch.randn(3, 2), "deep": {"er": {"y": torch.arange(5)}, "z": torch.tensor(1.5)}}
    save_state(copy_state(state), tmp_path / "s")
    back = load_state(tmp_path / "s")
    assert torch.equal(back["x"], state["x"])
    assert torch.equal(back["deep"]["er"]["y"], state["deep"]["er"]["y"])
    assert back["deep"]["z"].item() == 1.5


def test_only_tensors_are_saved(tmp_path):
    with pytest.raises(CheckpointError, match="'a/b' is a int"):
        copy_state({"a": {"b": 1}})


def test_the_pointer_leads_to_the_last_whole_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path, train_key="k") is None
    write(tmp_path, 10)
    write(tmp_path, 20)
    assert latest_checkpoint(tmp_path, train_key="k").name == "step-00000020"


def test_a_write_that_dies_leaves_the_earlier_checkpoint(tmp_path):
    write(tmp_path, 10)

    def die(folder):
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    record = CheckpointRecord(step=20, phase=0, samples_seen=0, train_key="k", scheduled=True)
    with pytest.raises(StorageError, match=r"step-00000020 cannot be written: the disk is full"):
        write_checkpoint(tmp_path, record, die)
    assert checkpoint_names(tmp_path) == ["step-00000010"]
    assert latest_checkpoint(tmp_path, train_key="k").name == "step-00000010"


def test_a_leftover_of_a_killed_write_is_cleared(tmp_path):
    leftover = tmp_path / ".unfinished-abc"
    leftover.mkdir()
    (leftover / "state.safetensors").write_bytes(b"half")
    write(tmp_path, 10)
    assert not leftover.exists()


def test_another_recipes_checkpoint_is_refused(tmp_path):
    write(tmp_path, 10, key="other")
    with pytest.raises(
        CheckpointError, match="another recipe: it belongs to train key other, this run is k"
    ):
        latest_checkpoint(tmp_path, train_key="k")


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "record"])
def test_damage_is_found(tmp_path, damage):
    folder = write(tmp_path, 10)
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "remove":
        path.unlink()
    else:
        (folder / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match="step-00000010"):
        latest_checkpoint(tmp_path, train_key="k")


def test_a_record_other_than_the_one_pointed_to_is_found(tmp_path):
    record = write(tmp_path, 10) / "checkpoint.json"
    record.write_text(record.read_text().replace('"step": 10', '"step": 11'))
    with pytest.raises(CheckpointError, match=r"is not the record that .*latest\.json points to"):
        latest_checkpoint(tmp_path, train_key="k")


def test_a_pointer_cannot_lead_out_of_the_folder(tmp_path):
    write(tmp_path, 10)
    (tmp_path / "latest.json").write_text(
        json.dumps({"checkpoint": "../../etc", "record_sha256": ""})
    )
    with pytest.raises(CheckpointError, match=r"points to '\.\./\.\./etc'"):
        latest_checkpoint(tmp_path, train_key="k")


def test_pruning_keeps_the_last_scheduled_and_the_newest(tmp_path):
    for step, scheduled in [
        (10, True),
        (15, False),
        (20, True),
        (25, False),
        (30, True),
        (35, False),
    ]:
        write(tmp_path, step, scheduled=scheduled)
    assert prune_checkpoints(tmp_path, keep_last=2, keep_best=0) == [
        "step-00000010",
        "step-00000015",
        "step-00000025",
    ]
    assert checkpoint_names(tmp_path) == ["step-00000020", "step-00000030", "step-00000035"]


def test_pruning_keeps_the_best_and_of_equals_the_later(tmp_path):
    for step, score in [(10, 0.5), (20, 0.7), (30, 0.7), (40, 0.1), (50, None), (60, 0.2)]:
        write(tmp_path, step, score=score)
    prune_checkpoints(tmp_path, keep_last=1, keep_best=1)
    assert checkpoint_names(tmp_path) == ["step-00000030", "step-00000060"]


def test_a_folder_that_a_killed_run_named_but_did_not_point_to_is_taken_or_mended(tmp_path):
    write(tmp_path, 10)
    pointer = (tmp_path / "latest.json").read_bytes()
    whole = write(tmp_path, 20)
    inode = (whole / "state.safetensors").stat().st_ino
    (tmp_path / "latest.json").write_bytes(pointer)
    assert (write(tmp_path, 20) / "state.safetensors").stat().st_ino == inode
    assert latest_checkpoint(tmp_path, train_key="k") == whole
    (tmp_path / "latest.json").write_bytes(pointer)
    (whole / "state.safetensors").write_bytes(b"half")
    write(tmp_path, 20)
    assert latest_checkpoint(tmp_path, train_key="k") == whole
