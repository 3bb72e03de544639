"""What a failure of the operating system means for a person, and what to do about it."""

import contextlib
import errno
import os
from pathlib import Path

from neuclip.foundation.errors import StorageError

_SENTENCES = {
    errno.ENOSPC: "the disk is full; free space or choose another folder, then run again",
    errno.EDQUOT: "the quota of the disk is used up; free space or choose another folder, then run again",
    errno.EROFS: "the disk is mounted read-only; make it writable or choose another folder",
    errno.EACCES: "permission denied; check owner and mode of it and of the folders above",
    errno.EPERM: "the system does not allow it; check owner, mode and attributes (lsattr) of it and its folder",
    errno.ENOENT: "there is no such file or folder; check the path",
    errno.ENOTDIR: "a file stands where a folder is expected; move it away or choose another path",
    errno.EEXIST: "a file stands where a folder is expected; move it away or choose another path",
    errno.EISDIR: "a folder stands where a file is expected; name the file itself, or move the folder away",
    errno.ENOTEMPTY: "the folder is not empty; something else writes there: stop it, then run again",
    errno.ENAMETOOLONG: "the path is longer than the file system allows; choose a shorter one",
    errno.ELOOP: "symbolic links lead back to themselves; name the place itself",
    errno.EMFILE: "too many files are open; raise `ulimit -n`, or lower processes and threads",
    errno.ENFILE: "too many files are open on this machine; stop what holds them, then run again",
    errno.EIO: "the disk does not answer; look at the system's log, and try another disk",
    errno.ESTALE: "the network file system has lost it; mount it again, then run again",
    errno.ENOMEM: "memory is used up; lower processes, threads or batch sizes, then run again",
    errno.EAGAIN: "no more processes or threads are allowed; raise `ulimit -u`, or lower processes and threads",
    errno.EADDRINUSE: "another program listens at this port; choose another one, or stop the other",
}
_IN_TEXT = {
    os.strerror(number): number
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)
}
"""What libraries write into errors of their own kind, none of which is met otherwise."""


def sentence_of(error: BaseException) -> str | None:
    """Say what happened and what to do, without the place; None if it is no failure of the operating system.

    DuckDB, pyarrow, tarfile and safetensors each report a full disk in their own way.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    if number not in _SENTENCES:
        number = next((n for text, n in _IN_TEXT.items() if text in str(error)), number)
    if number in _SENTENCES:
        return _SENTENCES[number]
    if isinstance(error, OSError):
        return error.strerror or str(error).partition("\n")[0]
    return None


def as_storage_error(error: BaseException, doing: str) -> StorageError | None:
    """Return the error as one for a person, with the file where it is known; None as `sentence_of`.

    Args:
        doing: what was done when it happened, such as "stage shard stopped".
    """
    sentence = sentence_of(error)
    if sentence is None:
        return None
    name = getattr(error, "filename", None)
    place = (
        f" at {_culprit(Path(os.fsdecode(name)))}" if isinstance(name, str | bytes) and name else ""
    )
    return StorageError(f"{doing}{place}: {sentence}")


def _culprit(path: Path) -> Path:
    """Return the file that stands in a path's way, the path itself where there is none."""
    with contextlib.suppress(OSError):
        return next((place for place in path.parents if place.is_file()), path)
    return path
