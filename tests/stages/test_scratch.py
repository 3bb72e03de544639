"""Oracle: real processes that live and die, in real namespaces, and what is left on the disk."""

import fcntl
import os
import time
from pathlib import Path

import pytest
from stages.runs import let_end, run, scratch_of

from neuclip.foundation.errors import StorageError
from neuclip.journey import sweep
from neuclip.stages.lock_file import LockFile
from neuclip.stages.owner import this_process
from neuclip.stages.scratch import scratch_folder, scratch_home


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_scratch_of_a_live_run_stays_and_that_of_a_dead_one_goes(root):
    with run(root) as alive:
        base = scratch_of(alive)
        assert base.parent == scratch_home(root)
        sweep(root)
        with scratch_folder(root):
            assert (base / "scratch" / "waste").read_text() == "x"
        alive.kill()
        alive.wait()
        sweep(root)
        assert not list(base.parent.iterdir())


def test_a_live_run_in_another_container_is_not_swept_and_a_dead_one_is(root, container):
    with run(root, within=container) as alive:
        base = scratch_of(alive)
        sweep(root)
        with scratch_folder(root):
            assert (base / "scratch" / "waste").exists()
        alive.kill()
        alive.wait()
        deadline = time.monotonic() + 20  # what was started in the namespace ends after it
        while list(base.parent.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.1)
            sweep(root)
        assert not list(base.parent.iterdir())


def test_a_container_does_not_sweep_what_lives_outside_of_it(root, container):
    with run(root) as alive:
        base = scratch_of(alive)
        with run(root, "part", within=container) as other:
            scratch_of(other)
            assert (base / "scratch" / "waste").exists()
            assert let_end(other) == "made"
        assert let_end(alive) == "made"
    assert not list(base.parent.iterdir())


@pytest.mark.slow
def test_scratch_of_another_machine_stays_as_long_as_it_gives_signs_of_life(root, hasty):
    home = scratch_home(root)
    far = this_process().model_copy(update={"boot": "another"})
    lock = LockFile.create(home / "x.owner", far)
    assert lock is not None
    fcntl.flock(lock._descriptor, fcntl.LOCK_UN)  # its lock is not seen here
    (home / "x").mkdir()
    for _ in range(6):
        time.sleep(0.5)
        lock.beat()
        sweep(root)
        assert (home / "x").exists()
    time.sleep(2.5)
    sweep(root)
    assert not list(home.iterdir())


@pytest.mark.parametrize("name", ["x", "vm.123.x", ".hidden"])
def test_a_folder_without_a_lock_is_nobodys(root, name):
    home = scratch_home(root)
    (home / name / "sub").mkdir(parents=True)
    sweep(root)
    assert not list(home.iterdir())


def test_a_lock_that_was_never_finished_is_swept(root, hasty):
    home = scratch_home(root)
    home.mkdir(parents=True, exist_ok=True)
    for content in (b"", this_process().to_bytes()):
        (home / f".{len(content)}.new").write_bytes(content)
    time.sleep(2.5)
    sweep(root)
    assert not list(home.iterdir())


@pytest.mark.parametrize("trap", ["link", "writable", "file"])
def test_a_temporary_folder_that_others_can_change_is_refused(trap, tmp_path):
    home = Path(os.environ["TMPDIR"]) / f"neuclip-scratch-{os.getuid()}"
    if trap == "link":
        home.symlink_to(tmp_path)
    elif trap == "file":
        home.write_text("x")
    else:
        home.mkdir()
        home.chmod(0o777)
    with pytest.raises(StorageError, match="neuclip-scratch"), scratch_folder("s3://bucket"):
        pass
