"""Samples of an untrusted WebDataset tar.

Nothing is extracted to disk and nothing is unpickled: members are read into memory by name, and only
those whose suffix is on the allow-list are read at all.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.foundation.member_names import key_and_suffix

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
SUFFIXES = frozenset([*IMAGE_SUFFIXES, "txt", "json", "cls", "npy"])
MAX_MEMBER_BYTES = 256 << 20
_END_MARK = bytes(tarfile.BLOCKSIZE)
_META = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset keeps for itself."""


@dataclass(frozen=True)
class TarSample:
    """Members with one key: suffix in lower case -> content."""

    key: str
    parts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    others: list[str] = field(default_factory=list[str])
    """Suffixes of the members that are not wanted, which were passed over unread."""

    def image(self, order: Sequence[str] = IMAGE_SUFFIXES) -> bytes | None:
        """Return the sample's image file, if it has one: of several, the first in an order of suffixes."""
        return next((self.parts[s] for s in order if s in self.parts), None)


def read_samples(path: Path, *, suffixes: frozenset[str] = SUFFIXES) -> Iterator[TarSample]:
    """Yield the samples of a tar in its order; the members of a sample must be neighbours.

    A sample none of whose members is wanted is yielded without parts. Members that belong to no sample (no suffix,
    hidden, `__meta__`) are passed over, as webdataset does.

    Args:
        path: an uncompressed tar.
        suffixes: members that are wanted, a part of SUFFIXES.

    Raises:
        IntegrityError: if the tar is cut off or damaged, naming the last good member.
        DataError: for links, devices, absolute or `..` names, oversized members, and keys that come twice.
    """
    sample: TarSample | None = None
    finished: set[str] = set()
    for name, key, suffix, content in _members(path, suffixes & SUFFIXES):
        if sample is None or key != sample.key:
            if sample is not None:
                finished.add(sample.key)
                yield sample
            sample = TarSample(key)
        if key in finished or suffix in sample.parts:
            raise DataError(
                f"{path}: member {name!r} comes twice or apart from the others of its key; "
                "write each key once, with its members side by side"
            )
        if content is None:
            sample.others.append(suffix)
        else:
            sample.parts[suffix] = content
    if sample is not None:
        yield sample


def _members(path: Path, suffixes: frozenset[str]) -> Iterator[tuple[str, str, str, bytes | None]]:
    """Yield (name, key, suffix, content if it is wanted), and make sure that the tar ends where it should."""
    last_good = "none"
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    _refuse_unsafe(path, member)
                    place = None if _META.match(member.name) else key_and_suffix(member.name)
                    if place is not None and not member.isdir():
                        key, suffix = place
                        yield (
                            member.name,
                            key,
                            suffix,
                            _read(tar, member) if suffix in suffixes else None,
                        )
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
    if not _is_utf8(member.name):
        raise DataError(f"{path}: member name {member.name!r} is not UTF-8; write the tar anew")
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


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)
