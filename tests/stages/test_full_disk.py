"""Oracle: a real disk of one megabyte."""

import duckdb
import pytest
import torch

from neuclip.checkpoint.folder import CheckpointRecord, latest_checkpoint, write_checkpoint
from neuclip.checkpoint.state import save_state
from neuclip.foundation.errors import StorageError
from neuclip.shards.tar import TarShard
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import is_committed, read_manifest, verify_sizes
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage


def by_tar(workspace):
    with TarShard(workspace.output / "shard.tar") as tar:
        for number in range(40):
            tar.add(f"{number}.jpg", b"x" * 100_000)
    return Outcome(make_ledger(1, 1, {}))


def by_duckdb(workspace):
    with duckdb.connect(str(workspace.output / "index.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT hash(range) AS h FROM range(1000000)")
    return Outcome(make_ledger(1, 1, {}))


@pytest.mark.parametrize("work", [by_tar, by_duckdb])
def test_a_stage_that_fills_the_disk_says_so_and_leaves_the_rest(small_disk, work):
    done = StageIdentity("curate", 1, "done", {}, {}, str(small_disk))
    manifest, _ = commit_stage(done, lambda _: Outcome(make_ledger(1, 1, {})))
    full = StageIdentity("curate", 1, "full", {}, {}, str(small_disk))
    with pytest.raises(StorageError, match="the disk is full"):
        commit_stage(full, work)
    assert not is_committed(full.uri)
    assert read_manifest(done.uri) == manifest
    verify_sizes(done.uri, manifest)
    assert not list((small_disk / ".scratch").iterdir())


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(small_disk):
    def write(step, numbers):
        record = CheckpointRecord(step=step, phase=0, samples_seen=0, train_key="k", scheduled=True)
        write_checkpoint(
            small_disk,
            record,
            lambda f: save_state({"x": torch.zeros(numbers)}, f / "state.safetensors"),
        )

    write(1, 10)
    with pytest.raises(StorageError, match=r"step-00000002 cannot be written.*make room"):
        write(2, 1_000_000)
    assert latest_checkpoint(small_disk, train_key="k").name == "step-00000001"
    assert [path.name for path in small_disk.glob(".unfinished-*")] == []
