"""A file that says who is at work: locked by its living owner, touched at every sign of life.

The kernel gives the lock back when its owner ends, however it ends, and containers on one kernel see each other's.
Machines that share a disk may not see each other's locks; there the file's time counts. A file appears whole and
locked: it is written beside its place and linked into it.
"""

import errno
import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuclip.stages.owner import Owner, Seen, boot_id, read_owner

_SETTLE_S = 2.0
_TRIES = 100
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
_UNFINISHED = ".new"


class LockFile:
    """A lock file that is ours."""

    def __init__(self, path: Path, descriptor: int, owner: Owner) -> None:
        self.path, self._descriptor, self._owner = path, descriptor, owner

    @classmethod
    def create(cls, path: Path, owner: Owner) -> "LockFile | None":
        """Make the file and hold it; None if it is there already.

        Raises: OSError: if the folder cannot be written to.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished, descriptor = _unfinished(path.parent, owner)
        try:
            os.link(unfinished, path)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, FileExistsError):
                return None
            if error.errno in _NO_LINKS:
                return cls._create_in_place(path, owner)
            raise
        finally:
            unfinished.unlink(missing_ok=True)
        return cls(path, descriptor, owner)

    @classmethod
    def take_over(cls, path: Path, owner: Owner, seen: Seen) -> "LockFile | None":
        """Put a file of ours in the place of a dead owner's; None if somebody else was faster."""
        with _opened(path) as old:
            if old is None or _lock(old, fcntl.LOCK_EX) is False or not _lies_at(old, path):
                return None
            if _stamp(old) != seen.stamp:
                return None
            unfinished, descriptor = _unfinished(path.parent, owner)
            unfinished.replace(path)
        held = cls(path, descriptor, owner)
        if seen.is_alive is None:  # another machine may have done the same, and not seen our lock
            time.sleep(_SETTLE_S)
        if held.is_ours():
            return held
        os.close(descriptor)
        return None

    @classmethod
    def _create_in_place(cls, path: Path, owner: Owner) -> "LockFile | None":
        """Do without a link, where the file system has none."""
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            return None
        _lock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, owner.to_bytes())
        return cls(path, descriptor, owner)

    def is_ours(self) -> bool:
        """Tell whether the file at its place is still this one."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return False
        return content == self._owner.to_bytes()

    def beat(self) -> bool:
        """Give a sign of life; tell whether the file is still ours."""
        os.utime(self._descriptor)
        return self.is_ours()

    def remove(self) -> None:
        """Remove the file, unless it is somebody else's by now."""
        with suppress(OSError):
            if self.is_ours():
                self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def look(path: Path) -> Seen | None:
    """Return what is known of the owner of a lock file; None if there is no file."""
    for _ in range(_TRIES):
        with _opened(path) as descriptor:
            if descriptor is None:
                return None
            is_free = _lock(descriptor, fcntl.LOCK_SH)
            if is_free and not _lies_at(descriptor, path):
                continue  # it was removed or replaced while we looked
            stamp = _stamp(descriptor)
        touched, _, content = stamp.partition(b"\n")
        owner = read_owner(content)
        is_alive = None
        if is_free is False:
            is_alive = True
        elif is_free and owner is not None and owner.boot == boot_id():
            is_alive = False
        return Seen(owner, stamp, _now_s(path.parent) - int(touched) / 1e9, is_alive)
    return None


def sweep_unfinished(folder: Path) -> None:
    """Remove files of processes that were killed while they made theirs."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        seen = look(path)
        if seen is not None and seen.is_stale():
            path.unlink(missing_ok=True)


def _unfinished(folder: Path, owner: Owner) -> tuple[Path, int]:
    """Write the record to a file beside its place and lock it."""
    for _ in range(_TRIES):
        path = folder / f".{uuid.uuid4().hex}{_UNFINISHED}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if _lock(descriptor, fcntl.LOCK_EX) is not False and _lies_at(descriptor, path):
            os.write(descriptor, owner.to_bytes())
            return path, descriptor
        os.close(descriptor)  # somebody looked at it just then, or swept it
        path.unlink(missing_ok=True)
    raise OSError(errno.EBUSY, "cannot lock a new file", str(folder))


def _lock(descriptor: int, kind: int) -> bool | None:
    """Take the lock; False if somebody holds it, None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _stamp(descriptor: int) -> bytes:
    """Return the time of the last sign of life, and the record."""
    return b"%d\n%s" % (os.fstat(descriptor).st_mtime_ns, os.pread(descriptor, 1 << 16, 0))


def _lies_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


@contextmanager
def _opened(path: Path) -> Generator[int | None]:
    """Open a file that may be another user's, or gone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _now_s(folder: Path) -> float:
    """Return the time of the clock that touches files in a folder, which may be a server's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        return os.fstat(file.fileno()).st_mtime
