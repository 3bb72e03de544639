"""Erase members of a tar in place: each keeps its name and size, so that every other member stays where it is."""

import os
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path

from neuclip.foundation.errors import IntegrityError

Fill = Callable[[str, bytes], bytes]
"""Makes, of a member's name and content, what stands there instead, of the same length."""


def zeros(name: str, content: bytes) -> bytes:
    """Leave nothing."""
    del name
    return bytes(len(content))


def blank_members(path: Path, stems: Collection[str], fill: Fill = zeros) -> int:
    """Overwrite the content of all members whose name begins with one of the stems and a dot; return their number.

    Raises: IntegrityError: if the tar is broken.
    """
    try:
        with tarfile.open(path) as tar:
            members = [
                member for member in tar if member.isfile() and stem_of(member.name) in stems
            ]
    except tarfile.TarError as error:
        raise IntegrityError(
            f"{path} is no tar that can be read ({error}), so nothing can be erased from it; "
            "remove the folder it lies in"
        ) from error
    with path.open("r+b") as file:
        for member in members:
            file.seek(member.offset_data)
            content = fill(member.name, file.read(member.size))
            assert len(content) == member.size
            file.seek(member.offset_data)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(members)


def stem_of(member: str) -> str:
    """Return what the members of one sample have in common."""
    return member.rsplit("/", 1)[-1].split(".", 1)[0]
