"""The members of an untrusted tar: where they lie and whether their images have sound headers.

Nothing is extracted to disk and nothing is unpickled; what a data set has no reason to hold is passed over.
"""

import io
import os
import tarfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import simplejpeg
from PIL import Image

from neuclip.adopt.problems import Problems
from neuclip.foundation.member_names import key_and_suffix
from neuclip.foundation.text import printable

IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp")
"""Of several images of a key the first of these is taken, as open_clip's trainer does."""
_FORMATS = ("JPEG", "PNG", "WEBP")
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
MAX_PIXELS = 64_000_000
"""Most pixels of an image; above, no stage below decodes it."""
_MAX_MEMBER_BYTES = 256 << 20
_MAX_HEADER_BYTES = 1 << 20
"""Most bytes of a long name or of extended headers."""
_END_MARK = bytes(tarfile.BLOCKSIZE)
_MAX_NAME_CHARACTERS = 4096
_DETAIL_CHARACTERS = 200
_TWICE = "its key comes twice"


@dataclass(frozen=True)
class Member:
    """A plain file in a tar: its name, suffix in lower case, first byte and size in bytes."""

    name: str
    suffix: str
    offset: int
    size: int


@dataclass
class TarMembers:
    """The members of a tar by key and kind, and what was passed over."""

    images: dict[str, Member] = field(default_factory=dict[str, Member])
    records: dict[str, Member] = field(default_factory=dict[str, Member])
    texts: dict[str, Member] = field(default_factory=dict[str, Member])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Key -> why a member of it was passed over."""
    damage: str = ""
    """Why the tar could not be read to its end, empty if it was."""
    problems: Problems = field(default_factory=Problems)
    """What is wrong with the tar -> how many times."""

    def every_key(self) -> list[str]:
        """Return every key, in the order of the tar for each kind."""
        return list({**self.records, **self.images, **self.texts, **self.refused})


def read_members(path: Path) -> TarMembers:
    """Read the headers of a plain tar, up to where it breaks off if it does."""
    found = TarMembers()
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        try:
            _read_headers(file, size_bytes, found)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  # tarfile raises anything over untrusted headers
            found.damage = printable(f"the tar is cut off or damaged: {error}"[:_DETAIL_CHARACTERS])
            found.problems.note(found.damage)
    return found


def _read_headers(file: BinaryIO, size_bytes: int, found: TarMembers) -> None:
    position = 0
    with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:
        for info in tar:
            if info.size < 0 or not position < tar.offset <= size_bytes:
                raise tarfile.ReadError(f"member {info.name!r} does not lie in the file")
            position = tar.offset
            _sort_in(found, info)
            tar.members = []  # type: ignore[misc]  # tarfile keeps every header otherwise
        file.seek(tar.offset)
        if file.read(len(_END_MARK)) != _END_MARK:  # tarfile ends quietly at a bad header
            raise tarfile.ReadError(f"no end mark at byte {tar.offset}")


def check_image(content: bytes) -> tuple[int, int] | tuple[str, str]:
    """Read an image's header; return its width and height in pixels, or a reason and a detail."""
    if not content.startswith(_STARTS):
        return "not_an_image", f"it starts with {content[:8]!r}, expected JPEG, PNG or WebP"
    try:
        width, height = _size_px(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return "too_large", str(error)[:_DETAIL_CHARACTERS]
    except Exception as error:  # noqa: BLE001  # a decoder of foreign bytes may raise anything
        return "undecodable", str(error)[:_DETAIL_CHARACTERS]
    if width * height > MAX_PIXELS:
        return "too_large", f"{width} x {height} pixels, at most {MAX_PIXELS} are read"
    return width, height


def _size_px(content: bytes) -> tuple[int, int]:
    if content.startswith(_STARTS[0]):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(content)
            return int(width), int(height)
        except ValueError:
            pass  # Pillow reads some that libjpeg-turbo does not
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.size


def _sort_in(found: TarMembers, info: tarfile.TarInfo) -> None:
    if info.isdir():
        return
    path = PurePosixPath(info.name)
    parts = key_and_suffix(str(path))
    key, suffix = parts or (str(path), "")
    if why := _why_refused(info, path):
        found.refused[printable(key)[:_DETAIL_CHARACTERS]] = why
        found.problems.note(f"members refused: {why}", info.name)
        return
    place = {
        "json": found.records,
        "txt": found.texts,
        **dict.fromkeys(IMAGE_SUFFIXES, found.images),
    }.get(suffix)
    if parts is None:
        found.problems.note("members passed over: hidden, or without a suffix", info.name)
    elif place is None:
        found.problems.note(f"members passed over: .{suffix}"[:_DETAIL_CHARACTERS], info.name)
    else:
        _take(found, place, key, Member(info.name, suffix, info.offset_data, info.size))


def _take(found: TarMembers, place: dict[str, Member], key: str, member: Member) -> None:
    """Keep a member unless its name comes twice; of several images, the one that comes first in IMAGE_SUFFIXES."""
    other = place.get(key)
    if found.refused.get(key) == _TWICE or (other and other.suffix == member.suffix):
        place.pop(key, None)
        found.refused[key] = _TWICE
        found.problems.note(f"members refused: {_TWICE}", member.name)
    elif other is None:
        place[key] = member
    else:
        first, second = sorted((other, member), key=lambda one: IMAGE_SUFFIXES.index(one.suffix))
        place[key] = first
        found.problems.note("members passed over: a further image of a key", second.name)


def _why_refused(info: tarfile.TarInfo, path: PurePosixPath) -> str:
    if printable(info.name) != info.name:
        return "its name is not UTF-8"
    if "\0" in info.name or len(info.name) > _MAX_NAME_CHARACTERS:
        return "its name holds a zero byte or is longer than any path"
    if path.is_absolute() or ".." in path.parts:
        return "its name leaves the archive"
    if info.issparse() or not info.isreg():
        return "it is a link, a device or sparse"
    if info.size > _MAX_MEMBER_BYTES:
        return f"it has more than {_MAX_MEMBER_BYTES} bytes"
    return ""


class _Headers(io.RawIOBase):
    """A file for tarfile to read headers from: one that claims to be long is not read into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(
                f"a header claims {size} bytes, at most {_MAX_HEADER_BYTES} are read"
            )
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True
