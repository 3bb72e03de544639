"""Scratch folders: local work space of one run, removed at its end, or by the next run if it was killed.

Beside each folder lies a lock file of its owner, there before the folder is and gone after it.
"""

import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from neuclip.foundation.errors import StorageError
from neuclip.stages.heart import beating
from neuclip.stages.lock_file import LockFile, look, sweep_unfinished
from neuclip.stages.owner import this_process
from neuclip.storage.failures import explained
from neuclip.storage.uris import is_local, local_part

_OWNER = ".owner"


@contextmanager
def scratch_folder(root: str) -> Generator[Path]:
    """Make a local folder for work at a root; it is removed afterwards.

    It lies on the root's own disk, so that a commit is a rename, or below the temporary folder.
    """
    folder = scratch_home(root)
    with explained("write", str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_scratch(folder)
        base = folder / uuid.uuid4().hex
        lock = LockFile.create(base.with_name(lock_name(base.name)), this_process())
    assert lock is not None  # nobody else has this name
    try:
        with explained("write", str(base)):
            base.mkdir()
        with beating(lock.beat):
            yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)
        lock.remove()


def scratch_home(root: str) -> Path:
    """Return where the scratch folders of a root lie.

    Raises: StorageError: if the temporary folder's part of this user is somebody else's.
    """
    if is_local(root):
        return local_part(root) / ".scratch"
    folder = Path(tempfile.gettempdir()) / f"neuclip-scratch-{os.getuid()}"
    with explained("write", str(folder)):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StorageError(
            f"{folder} is not a folder that only this user can write to, so somebody else could change what a run "
            "works on; remove it, or set TMPDIR to a folder of your own"
        )
    return folder


def sweep_scratch(folder: Path) -> None:
    """Remove what runs left that were killed before they could."""
    sweep_unfinished(folder)
    for entry in [entry for entry in folder.glob("*") if entry.is_dir()]:
        if not entry.with_name(
            lock_name(entry.name)
        ).exists():  # the lock file is there first and goes last
            shutil.rmtree(entry, ignore_errors=True)
    for lock in folder.glob(f"*{_OWNER}"):
        seen = look(lock)
        if seen is not None and seen.is_stale():
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def lock_name(name: str) -> str:
    """Return the name of the lock file of a scratch folder, or of an owner that has none."""
    return f"{name}{_OWNER}"
