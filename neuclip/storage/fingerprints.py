"""Hashes of local files, remembered for as long as nobody has written to the file.

An entry holds for one path, device, inode, size, time of modification and time of change; the last cannot be set back.
A file that was written a moment ago is hashed each time: it may be written again without another time.
"""

import contextlib
import hashlib
import os
import time
import uuid
from pathlib import Path

from neuclip.storage.cache_folder import cache_folder
from neuclip.storage.transfers import content_of_file

_SETTLED_NS = 2_000_000_000
_SHA256_DIGITS = 64


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a local file as hex; it is read only if it was written since the last time."""
    known = remembered(path)
    if known is not None:
        return known
    before = _state(path)
    sha256 = content_of_file(path).sha256
    if _state(path) == before and _is_settled(path):
        _write(path, _line(before, sha256))
    return sha256


def remembered(path: Path) -> str | None:
    """Return the hash of a file if it is known and the file is there, unwritten since."""
    try:
        line = _entry(path).read_text(encoding="ascii")
        state = _state(path)
    except (OSError, UnicodeDecodeError):
        return None
    sha256 = line[:_SHA256_DIGITS]
    return sha256 if line == _line(state, sha256) else None


def remember(path: Path, sha256: str) -> None:
    """Note the hash of a file that only this program writes, and has just put in its place."""
    _write(path, _line(_state(path), sha256))


def _state(path: Path) -> str:
    """Return what is another after every writing of the file."""
    found = path.stat()
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return f"{path.absolute()} {' '.join(map(str, numbers))}"


def _is_settled(path: Path) -> bool:
    found, now = path.stat(), time.time_ns()
    return all(abs(now - moment) > _SETTLED_NS for moment in (found.st_mtime_ns, found.st_ctime_ns))


def _line(state: str, sha256: str) -> str:
    """Return an entry, which proves itself: a damaged one, or one of another state, is not this line."""
    return f"{sha256} {hashlib.sha256(f'{state} {sha256}'.encode('utf-8', 'surrogateescape')).hexdigest()}\n"


def _entry(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    return cache_folder() / "fingerprints" / name[:2] / name


def _write(path: Path, line: str) -> None:
    """Write an entry whole or not at all; without it the file is read again."""
    entry = _entry(path)
    unfinished = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(line, encoding="ascii")
            unfinished.replace(entry)
        finally:
            unfinished.unlink(missing_ok=True)
