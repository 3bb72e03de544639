"""The members of a tar that a stranger wrote: where they lie and whether their images have sound headers.

Nothing is extracted to disk and nothing is unpickled; what a data set has no reason to hold is passed over.
"""

import io
import os
import tarfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import simplejpeg
from PIL import Image

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
_FORMATS = ("JPEG", "PNG", "WEBP")
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
MAX_PIXELS = 64_000_000
"""Most pixels of an image; above, no stage below decodes it."""
_MAX_MEMBER_BYTES = 256 << 20
_MAX_HEADER_BYTES = 1 << 20
"""Most bytes of a long name or of extended headers."""
_END_MARK = bytes(tarfile.BLOCKSIZE)
_DETAIL_CHARACTERS = 200


@dataclass(frozen=True)
class Member:
    """A plain file in a tar: its name, first byte and size in bytes."""

    name: str
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
    problems: Counter[str] = field(default_factory=Counter[str])
    """What is wrong with the tar -> how many times."""

    def every_key(self) -> list[str]:
        """Return every key, in the order of the tar for each kind."""
        return list({**self.records, **self.images, **self.texts, **self.refused})


def read_members(path: Path) -> TarMembers:
    """Read the headers of a plain tar, up to where it breaks off if it does."""
    found = TarMembers()
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        position = 0
        try:
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
        except (tarfile.TarError, EOFError, ValueError, RecursionError, OverflowError) as error:
            found.problems[f"the tar is cut off or damaged: {error}"[:_DETAIL_CHARACTERS]] += 1
    return found


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
    path = PurePosixPath(info.name)
    stem, _, suffix = path.name.partition(".")
    key = str(path.parent / stem)
    places = {
        "json": found.records,
        "txt": found.texts,
        **dict.fromkeys(IMAGE_SUFFIXES, found.images),
    }
    place = places.get(suffix.lower())
    if info.isdir():
        return
    if why := _why_refused(info, path):
        found.refused[key] = why
        found.problems[f"members refused: {why}"] += 1
    elif place is None:
        found.problems[f"members passed over: .{suffix.lower()}"[:_DETAIL_CHARACTERS]] += 1
    elif key in place or found.refused.get(key) == "its key comes twice":
        place.pop(key, None)
        found.refused[key] = "its key comes twice"
        found.problems["members refused: its key comes twice"] += 1
    else:
        place[key] = Member(info.name, info.offset_data, info.size)


def _why_refused(info: tarfile.TarInfo, path: PurePosixPath) -> str:
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
