"""Oracle: real processes, in real container, at a folder and at a real S3 server."""

import errno
import fcntl
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stages.ignorant_s3 import ignorant_s3
from stages.runs import leases, let_end, line, run, scratch_of, told

from neuclip.foundation.errors import StorageError
from neuclip.stages import heart, lease_places, lock_file, owner
from neuclip.stages.lease import leased, sweep_leases
from neuclip.stages.lease_places import place_of
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import is_committed, read_manifest
from neuclip.stages.owner import this_process
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage
from neuclip.storage.files import list_files, list_folders, read_bytes, write_bytes
from neuclip.storage.uris import join

NAME = "curate-k.json"
UNREADABLE = [
    b"",
    *(
        pytest.param(c, marks=pytest.mark.slow)
        for c in (b"{", b"\xff\xfe", b"[]", b'{"token": "../../etc"}')
    ),
]
SLOW_MODES = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("part", "keep")]


def identity(root: str, **changes) -> StageIdentity:
    return StageIdentity("curate", 1, "k", {}, {}, root, **changes)


def nothing(workspace):
    return Outcome(make_ledger(1, 1, {}))


def elsewhere(root: str, **changes):
    """Let a process of another machine hold the lease; it gives no sign of life by itself."""
    held = place_of(root, NAME).create(
        this_process().model_copy(update={"boot": "another", "host": "far", **changes})
    )
    assert held is not None
    if isinstance(held, lock_file.LockFile):
        fcntl.flock(held._descriptor, fcntl.LOCK_UN)  # its lock is not seen here
    return held


@pytest.mark.parametrize("mode", ["", *SLOW_MODES])
def test_a_second_run_waits_says_for_whom_and_finds_it_done(root, mode):
    with run(root, mode) as first:
        scratch_of(first)
        with run(root, mode) as second:
            said = told(second)
            assert f"process {first.pid}, which has been making curate " in said
            assert "last sign of life" in said
            assert let_end(first) == "made"
            assert line(second) == "found"
            assert (first.wait(20), second.wait(20)) == (0, 0)
    assert leases(root) == []
    uri = identity(root, part=mode == "part").uri
    assert sorted(list_files(uri)) == ["file", "manifest.json"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["force", "keep force"])
def test_forced_runs_come_one_after_the_other(root, mode):
    with run(root, mode) as first, run(root, mode) as second:
        begun = [first, second]
        while not (leases(root)):
            time.sleep(0.05)
        working = next(
            c
            for c in begun
            if f'"pid":{c.pid},' in read_bytes(join(root, ".leases", NAME)).decode()
        )
        waiting = begun[working is first]
        scratch_of(working)
        assert "waits for" in told(waiting)
        assert let_end(working) == "made"
        scratch_of(waiting)
        assert let_end(waiting) == "made"
    assert leases(root) == []


@pytest.mark.parametrize("mode", ["", *SLOW_MODES])
def test_a_killed_run_is_noticed_at_once(root, mode):
    with run(root, mode) as first:
        scratch_of(first)
        with run(root, mode) as second:
            assert "waits for" in told(second)
            first.kill()
            killed_at = time.monotonic()
            scratch_of(second)
            assert time.monotonic() - killed_at < 10  # not STALE_S
            assert let_end(second) == "made"
    assert leases(root) == []


def test_a_run_with_process_ids_of_its_own_is_seen(root, container):
    with run(root, within=container) as first:
        scratch_of(first)
        with run(root) as second:
            assert "waits for" in told(second)
            first.kill()
            scratch_of(second)
            assert let_end(second) == "made"
        assert leases(root) == []


@pytest.mark.slow
def test_a_run_that_waits_in_a_namespace_of_its_own_goes_on(root, container):
    with run(root) as first:
        scratch_of(first)
        with run(root, within=container) as second:
            assert "waits for" in told(second)
            assert let_end(first) == "made"
            assert line(second) == "found"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_run_that_waits_can_be_ended(root, number):
    with run(root) as first:
        scratch_of(first)
        with run(root) as second:
            assert "waits for" in told(second)
            second.send_signal(number)
            assert second.wait(10) != 0
        assert let_end(first) == "made"
    assert leases(root) == []


@pytest.mark.slow
def test_a_stopped_run_is_waited_for_where_the_kernel_knows_that_it_lives(root, hasty):
    with run(root) as first:
        scratch_of(first)
        first.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor() as pool:
            second = pool.submit(commit_stage, identity(root), nothing)
            time.sleep(2 * owner.STALE_S)
            assert not second.done()
            first.send_signal(signal.SIGCONT)
            assert let_end(first) == "made"
            assert second.result(20)[1] is False


def test_an_owner_on_another_machine_is_dead_when_it_gives_no_sign_of_life(root, hasty):
    elsewhere(root)
    begun_at = time.monotonic()
    assert commit_stage(identity(root), nothing)[1]
    assert 1.0 < time.monotonic() - begun_at < 20
    assert leases(root) == []


@pytest.mark.slow
def test_an_owner_on_another_machine_lives_as_long_as_it_gives_signs_of_life(root, hasty):
    held = elsewhere(root)
    with heart.beating(held.beat), ThreadPoolExecutor() as pool:
        second = pool.submit(commit_stage, identity(root), nothing)
        time.sleep(2 * owner.STALE_S)
        assert not second.done()
        held.remove()
        assert second.result(20)[1]


@pytest.mark.parametrize("content", UNREADABLE)
def test_a_record_that_nobody_can_read_is_waited_for_and_then_removed(root, content, hasty):
    write_bytes(join(root, ".leases", NAME), content)
    assert commit_stage(identity(root), nothing)[1]
    assert leases(root) == []


@pytest.mark.slow
@pytest.mark.parametrize("days", [-300, 300])
def test_no_clock_of_a_machine_is_compared(root, days, hasty):
    """The owner's and this machine's clocks may be wrong; the storage's counts."""
    held = elsewhere(root, since=f"20{26 + days // 100}-01-01T00:00:00+00:00")
    with heart.beating(held.beat), ThreadPoolExecutor() as pool:
        second = pool.submit(commit_stage, identity(root), nothing)
        time.sleep(1.5 * owner.STALE_S)
        assert not second.done()
        held.remove()
        assert second.result(20)[1]


def test_who_lost_the_lease_commits_nothing(root, hasty):
    def work(workspace):
        (workspace.output / "file").write_text("late")
        write_bytes(join(root, ".leases", NAME), this_process().to_bytes())
        return Outcome(make_ledger(1, 1, {}))

    with pytest.raises(StorageError, match="another run has taken over curate k"):
        commit_stage(identity(root), work)
    assert list_files(identity(root).uri) == {}
    assert leases(root) == [NAME]  # that of the other run


def test_who_lost_the_lease_stops_working(root, hasty):
    def work(workspace):
        write_bytes(join(root, ".leases", NAME), this_process().to_bytes())
        for _ in range(600):
            time.sleep(0.1)
        raise AssertionError("nobody told it")

    begun_at = time.monotonic()
    with pytest.raises(StorageError, match="another run has taken over curate k"):
        commit_stage(identity(root), work, keep_unfinished=True)
    assert time.monotonic() - begun_at < 20


def test_of_many_runs_at_once_one_works(root, hasty):
    worked = []

    def work(workspace):
        worked.append(1)
        time.sleep(0.5)
        return nothing(workspace)

    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(commit_stage, identity(root), work) for _ in range(8)]
        assert sorted(run.result(60)[1] for run in runs) == [False] * 7 + [True]
    assert len(worked) == 1
    assert leases(root) == []


def test_of_many_runs_one_takes_over_from_a_dead_one(root, hasty):
    with run(root) as dead:
        scratch_of(dead)
        dead.kill()
        dead.wait()
        together, worked = threading.Barrier(6), []

        def begin():
            together.wait()
            return commit_stage(
                identity(root), lambda workspace: worked.append(1) or nothing(workspace)
            )[1]

        with ThreadPoolExecutor(6) as pool:
            assert sum(run.result(60) for run in [pool.submit(begin) for _ in range(6)]) == 1
    assert len(worked) == 1


@pytest.mark.slow
def test_other_keys_are_not_waited_for(root):
    with run(root) as first:
        scratch_of(first)
        for other in (
            StageIdentity("curate", 1, "k2", {}, {}, root),
            StageIdentity("shard", 1, "k", {}, {}, root),
            identity(root, part=True),
        ):
            assert commit_stage(other, nothing)[1]
        assert let_end(first) == "made"


@pytest.mark.slow
def test_leases_of_the_dead_are_swept_and_others_stay(root, hasty):
    with run(root) as dead, run(root, "part") as alive:
        scratch_of(dead)
        scratch_of(alive)
        dead.kill()
        dead.wait()
        sweep_leases(root)
        assert leases(root) == ["curate-part-k.json"]
        assert let_end(alive) == "made"


def test_a_lease_is_no_file_of_a_stage(root):
    with leased(root, "curate", "k"):
        assert leases(root) == [NAME]
        assert list_folders(join(root, "curate")) == []
        assert not is_committed(identity(root).uri)


def without_links(monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def without_locks(monkeypatch):
    def refuse(descriptor, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("lack", [without_links, without_locks])
def test_a_disk_that_lacks_something_keeps_runs_apart_all_the_same(
    tmp_path, lack, monkeypatch, hasty
):
    lack(monkeypatch)
    worked = []

    def work(workspace):
        worked.append(1)
        time.sleep(3 * owner.STALE_S / 2)
        return nothing(workspace)

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(commit_stage, identity(str(tmp_path)), work) for _ in range(4)]
        assert sum(run.result(60)[1] for run in runs) == 1
    assert len(worked) == 1
    assert leases(str(tmp_path)) == []


@pytest.mark.slow
def test_a_storage_without_conditional_writes_is_told_and_keeps_runs_apart(
    s3_bucket, s3_environment, monkeypatch, caplog
):
    monkeypatch.setattr(heart, "BEAT_S", 0.1)
    with ignorant_s3(s3_environment["AWS_ENDPOINT_URL"]) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        lease_places.filesystem(s3_bucket)[0].clear_instance_cache()
        worked = []

        def work(workspace):
            worked.append(1)
            return nothing(workspace)

        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(commit_stage, identity(s3_bucket), work) for _ in range(4)]
            assert sum(run.result(90)[1] for run in runs) == 1
        assert len(worked) == 1
        assert "ignores conditional writes" in caplog.text
        assert leases(s3_bucket) == []


def test_a_forced_commit_of_an_old_owner_does_not_touch_the_new_ones(root, hasty):
    """Taken over between its work and its commit."""
    before, _ = commit_stage(identity(root), nothing)

    def work(workspace):
        (workspace.output / "file").write_text("old")
        write_bytes(join(root, ".leases", NAME), this_process().to_bytes())
        return Outcome(make_ledger(1, 1, {}))

    with pytest.raises(StorageError, match="taken over"):
        commit_stage(identity(root), work, force=True)
    assert read_manifest(identity(root).uri) == before


def test_unfinished_uploads_below_a_key_are_aborted(s3_bucket, s3_environment):
    import boto3

    client = boto3.client("s3", endpoint_url=s3_environment["AWS_ENDPOINT_URL"])
    bucket = s3_bucket.removeprefix("s3://")
    for key in ("curate/k/model.bin", "curate/k2/model.bin", "other"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    commit_stage(identity(s3_bucket), nothing)
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert sorted(upload["Key"] for upload in left) == ["curate/k2/model.bin", "other"]
    client.close()


def test_a_root_that_cannot_be_written_to_is_one_message(tmp_path):
    path = Path(tmp_path / "file")
    path.write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        commit_stage(identity(str(path / "root")), nothing)
