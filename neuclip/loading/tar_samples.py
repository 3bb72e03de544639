"""Samples of a WebDataset tar that a stranger may have written.

Nothing is extracted to disk and nothing is unpickled: members are read into memory by name, and only
those whose suffix is on the allow-list are read at all.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from neuclip.foundation.errors import DataError, IntegrityError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
SUFFIXES = frozenset([*IMAGE_SUFFIXES, "txt", "json", "cls"])
MAX_MEMBER_BYTES = 256 << 20
_END_MARK = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class TarSample:
    """Members with one key: suffix in lower case -> content."""

    key: str
    parts: dict[str, bytes]

    def image(self) -> bytes | None:
        """Return the sample's image file, if it has one."""
        return next((self.parts[s] for s in IMAGE_SUFFIXES if s in self.parts), None)


def read_samples(
    path: Path, *, suffixes: frozenset[str] = SUFFIXES, ignored: Counter[str] | None = None
) -> Iterator[TarSample]:
    """Yield the samples of a tar in its order; the members of a sample must be neighbours.

    Args:
        path: an uncompressed tar.
        suffixes: members that are wanted, a part of SUFFIXES.
        ignored: gets the counts of all other members by suffix; these are passed over unread.

    Raises:
        IntegrityError: if the tar is cut off or damaged, naming the last good member.
        DataError: for links, devices, absolute or `..` names, oversized members, and keys that come twice.
    """
    ignored = Counter() if ignored is None else ignored
    key, parts = "", dict[str, bytes]()
    finished: set[str] = set()
    for name, suffix, content in _members(path, suffixes & SUFFIXES, ignored):
        member_key = name[: -len(suffix) - 1]
        if member_key != key:
            if parts:
                finished.add(key)
                yield TarSample(key, parts)
            key, parts = member_key, {}
        if key in finished or suffix in parts:
            raise DataError(
                f"{path}: member {name!r} comes twice or apart from the others of its key; "
                "write each key once, with its members side by side"
            )
        parts[suffix] = content
    if parts:
        yield TarSample(key, parts)


def _members(
    path: Path, suffixes: frozenset[str], ignored: Counter[str]
) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, suffix, content) of the wanted members, and make sure that the tar ends where it should."""
    last_good = "none"
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    _refuse_unsafe(path, member)
                    suffix = PurePosixPath(member.name).name.partition(".")[2].lower()
                    if member.isdir():
                        pass
                    elif suffix not in suffixes:
                        ignored[suffix] += 1
                    else:
                        yield member.name, suffix, _read(tar, member)
                    last_good = member.name
                    tar.members = []  # type: ignore[misc]  # tarfile keeps every header otherwise
                _require_end_mark(file, tar.offset)
        except (tarfile.TarError, EOFError) as error:
            raise IntegrityError(
                f"{path} is not a whole tar: {error}; last good member: {last_good}; fetch or write it anew"
            ) from error


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Read a regular member whole."""
    stream = tar.extractfile(member)
    assert stream is not None, "only regular members come here"
    return stream.read()


def _require_end_mark(file: BinaryIO, offset: int) -> None:
    """Raise unless a block of zeros follows the last member: tarfile ends quietly at any unreadable header."""
    file.seek(offset)
    block = file.read(len(_END_MARK))
    if block != _END_MARK:
        state = "the file is cut off" if len(block) < len(_END_MARK) else "a header is damaged"
        raise tarfile.ReadError(f"{state} at byte {offset}")


def _refuse_unsafe(path: Path, member: tarfile.TarInfo) -> None:
    """Raise for members that a data set has no reason to hold."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path}: member name {member.name!r} leaves the archive; refused")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise DataError(
            f"{path}: member {member.name!r} is a link, a device or sparse; only plain files are read"
        )
    if member.size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{path}: member {member.name!r} has {member.size} bytes, above {MAX_MEMBER_BYTES}; refused"
        )
