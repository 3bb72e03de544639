"""Files of object storage in a bounded folder that all processes of a machine share."""

import fcntl
import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from neuclip.foundation.errors import IntegrityError, StorageError, TransientStorageError
from neuclip.storage.files import get_file
from neuclip.storage.fingerprints import remember, sha256_of_file

log = logging.getLogger(__name__)

_PAUSES_S = (0.5, 1, 2, 4, 8, 16)


class BoundedCache:
    """Keeps the files that were used last.

    A file is named by its SHA-256, which is compared whenever the file was written since the last time. One process
    fetches or compares a file, under a lock that the kernel releases if the process dies; others wait for it. A file
    that goes to make room stays readable to whoever has it open.

    Args:
        folder: for files of this kind alone.
        limit_bytes: most bytes of all files together; those on their way come on top.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._files, self._arriving, self._locks, self._uses = (
            folder / name for name in ("files", "arriving", "locks", "uses")
        )
        self._limit_bytes = limit_bytes

    def path_of(self, sha256: str) -> Path:
        """Return where a file lies if it is there."""
        return self._files / sha256

    def fetch(self, uri: str, *, size_bytes: int, sha256: str) -> None:
        """Make sure that a file is there, and that it is the last to go.

        Raises:
            IntegrityError: if it is missing at the URI or has other content.
            StorageError: if storage does not answer in spite of several tries, or the disk is full.
        """
        path = self.path_of(sha256)
        with locked(self._locks / sha256):
            if path.exists() and sha256_of_file(path) == sha256:
                self._note_use(sha256)
                return
            arrived = self._arriving / sha256
            for left in self._arriving.glob(f"*{sha256}*"):  # by a process that was killed
                left.unlink()
            try:
                _get_patiently(uri, arrived, size_bytes=size_bytes, sha256=sha256)
                self._keep(arrived, path)
                remember(path, sha256)
            finally:
                arrived.unlink(missing_ok=True)

    def _keep(self, arrived: Path, path: Path) -> None:
        """Remove the least recently used files until one more fits, and make it one of the cache's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._locks / "room"):
            uses = sorted(
                (self._last_use(entry.name), entry.stat().st_size, entry.path)
                for entry in os.scandir(self._files)
            )
            total_bytes = arrived.stat().st_size + sum(size for _, size, _ in uses)
            for _, size, name in uses:
                if total_bytes <= self._limit_bytes:
                    break
                Path(name).unlink()
                (self._uses / Path(name).name).unlink(missing_ok=True)
                total_bytes -= size
            arrived.replace(path)
            self._note_use(path.name)

    def _note_use(self, name: str) -> None:
        """Note a use of a file, beside it: its own times tell whether it was written."""
        self._uses.mkdir(parents=True, exist_ok=True)
        (self._uses / name).touch()

    def _last_use(self, name: str) -> int:
        try:
            return (self._uses / name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0


def _get_patiently(uri: str, path: Path, *, size_bytes: int, sha256: str) -> None:
    """Copy a file, trying again while storage is busy or cuts answers short."""
    for pause_s in _PAUSES_S:
        try:
            get_file(uri, path, size_bytes=size_bytes, sha256=sha256)
        except TransientStorageError as error:
            log.warning("%s; next try in %g s", error, pause_s)
            time.sleep(pause_s)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise IntegrityError(
                    f"{uri} is missing; it was removed after its commit"
                ) from error
            raise
        else:
            return
    try:
        get_file(uri, path, size_bytes=size_bytes, sha256=sha256)
    except TransientStorageError as error:
        raise TransientStorageError(
            f"{error}; tried {len(_PAUSES_S) + 1} times over more than {sum(_PAUSES_S):.0f} s"
        ) from error


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold a lock that processes, and threads of one, exclude each other by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
