"""The parts of a picture's file, counted before a library sees them: segments, scans, chunks, blocks, frames, metadata.

Each walk is linear in the bytes, ends where the picture ends, and leaves to the library what it does not count. What
lies behind the end, such as the film of a motion photo, is not part of the picture and is not looked at.
"""

import re
import struct

from neuclip.egress.directories import check_directories
from neuclip.egress.refusal import Refusal

JPEG_MAGIC, PNG_MAGIC = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
_AFTER_A_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A scan's own data hold FF 00 and restarts."""
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a length."""
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_MAX_SCANS = 100
"""A progressive JPEG has about ten; each costs a pass over all pixels, and a thousand fit into 20 kB."""
_MAX_SEGMENTS = 2_000
"""A colour profile takes up to 255, an extended XMP a few hundred."""
_MAX_PADDING = 65_536
"""Bytes between segments; Pillow reads them one by one."""
_CHUNK_BYTES, _SMALL_CHUNKS = 256, 1_000
"""Writers fill a chunk of PNG with 4 kB or more; a frame of WebP is one."""
_MAX_PACKED_CHUNKS = 100
"""Each of a PNG's compressed texts may become a megabyte."""
_PACKED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")
_BLOCK_BYTES, _SMALL_BLOCKS = 64, 5_000
"""A block of GIF has up to 255 bytes, and writers fill all but the last of a frame."""
_MAX_COMMENT_BYTES = 250_000
_MAX_DIRECTORIES = 100
"""Of tags in metadata; EXIF has two: the picture and its thumbnail."""
_BMP_START = struct.Struct("<18xii4xI")
"""Width, height, and how the pixels are packed."""
_RUNS = (1, 2)
_MAX_RUN_BYTES = 16
"""For a pixel of a packed bitmap; two are enough, and two for the end of a line."""
_EXTENSION, _IMAGE, _TRAILER, _COMMENT = 0x21, 0x2C, 0x3B, 0xFE


def is_webp(body: bytes) -> bool:
    """Tell whether bytes begin as a WebP does."""
    return body[:4] == b"RIFF" and body[8:12] == b"WEBP"


def check(body: bytes, max_frames: int) -> None:
    """Walk through a file whose format is known by its beginning.

    Raises: Refusal: `undecodable` or `too_many_frames`.
    """
    if body.startswith(JPEG_MAGIC):
        _check_jpeg(body)
    elif body.startswith(PNG_MAGIC):
        _check_png(body)
    elif body.startswith(b"GIF8"):
        _check_gif(body, max_frames)
    elif body.startswith(TIFF_MAGIC):
        check_directories(body, max_frames)
    elif is_webp(body):
        _check_webp(body, max_frames)
    elif body.startswith(b"BM"):
        _check_bmp(body)


def _check_jpeg(body: bytes) -> None:
    place, padding, segments, scans = 2, 0, 0, 0
    exif = bytearray()
    while found := _next_marker(body, place, in_scan=scans > 0):
        padding += 0 if scans else found.start() - place
        marker, place = body[found.end() - 1], found.end()
        if marker == _END:
            _check_metadata(bytes(exif))
            return
        segments += 1
        scans += marker == _SCAN
        _at_most(padding, _MAX_PADDING, "bytes between the segments of a JPEG")
        _at_most(segments, _MAX_SEGMENTS, "segments in a JPEG")
        _at_most(scans, _MAX_SCANS, "scans in a JPEG")
        if marker in _ALONE:
            continue
        data = body[place + 2 : place + int.from_bytes(body[place : place + 2], "big")]
        if marker == _APP1 and data.startswith(b"Exif\0\0"):
            exif += data[6:]  # several of them are one
        place += 2 + len(data)
    raise Refusal("undecodable", "a JPEG whose end, or next segment, is not found")


def _next_marker(body: bytes, place: int, *, in_scan: bool) -> re.Match[bytes] | None:
    if in_scan:
        return _AFTER_A_SCAN.search(body, place)
    return _JPEG_MARKER.search(body, place, place + _MAX_PADDING)


def _check_png(body: bytes) -> None:
    """Refuse one that ends inside a chunk, too: OpenCV allocates what a chunk says, 2 GB for a file of 77 bytes."""
    place, packed, most = len(PNG_MAGIC), 0, _most_chunks(body)
    for _ in range(most):
        length, kind = int.from_bytes(body[place : place + 4], "big"), body[place + 4 : place + 8]
        end = place + 12 + length
        if end > len(body):
            raise Refusal("undecodable", f"cut off {end - len(body)} bytes before a chunk ends")
        if kind == b"IEND":
            return
        packed += kind in _PACKED_CHUNKS
        _at_most(packed, _MAX_PACKED_CHUNKS, "compressed texts in a PNG")
        if kind == b"eXIf":
            _check_metadata(body[place + 8 : end - 4])
        place = end
    raise Refusal("undecodable", f"more than {most} chunks in a PNG of its size")


def _most_chunks(body: bytes) -> int:
    return len(body) // _CHUNK_BYTES + _SMALL_CHUNKS


def _check_gif(body: bytes, max_frames: int) -> None:
    place = 13 + _palette_bytes(body, 10)
    blocks = frames = comment_bytes = 0
    most_blocks = len(body) // _BLOCK_BYTES + _SMALL_BLOCKS
    while place < len(body) and body[place] != _TRAILER:
        is_comment = body[place : place + 2] == bytes((_EXTENSION, _COMMENT))
        if body[place] == _IMAGE:
            frames += 1
            if frames > max_frames:
                raise Refusal(
                    "too_many_frames", f"more than {max_frames} frames, allowed are {max_frames}"
                )
            place += 11 + _palette_bytes(body, place + 9)
        elif body[place] == _EXTENSION:
            place += 2
        else:
            place, blocks = place + 1, blocks + 1
            _at_most(blocks, most_blocks, "blocks in a GIF of its size")
            continue
        while place < len(body) and (length := body[place]):
            place, blocks = place + 1 + length, blocks + 1
            comment_bytes += length if is_comment else 0
            _at_most(blocks, most_blocks, "blocks in a GIF of its size")
            _at_most(comment_bytes, _MAX_COMMENT_BYTES, "bytes of comments in a GIF")
        place += 1


def _palette_bytes(body: bytes, place: int) -> int:
    """Return the size of the palette that the flags at a place announce."""
    flags = body[place] if place < len(body) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _check_webp(body: bytes, max_frames: int) -> None:
    place, frames, most = 12, 0, max_frames + _most_chunks(body)
    end = min(len(body), 8 + int.from_bytes(body[4:8], "little"))
    for _ in range(most):
        if place >= end:
            return
        kind = body[place : place + 4]
        length = int.from_bytes(body[place + 4 : place + 8], "little")
        frames += kind == b"ANMF"
        if frames > max_frames:
            raise Refusal(
                "too_many_frames", f"more than {max_frames} frames, allowed are {max_frames}"
            )
        if kind == b"EXIF":
            _check_metadata(body[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    raise Refusal("undecodable", f"more than {most} chunks in a WebP of its size")


def _check_bmp(body: bytes) -> None:
    """Refuse runs that cannot all be pixels: they are unpacked in Python, ten million bytes a second."""
    if len(body) < _BMP_START.size:
        return
    width, height, packing = _BMP_START.unpack_from(body)
    if packing in _RUNS:
        limit = _MAX_RUN_BYTES * (abs(width * height) + abs(height)) + _MAX_PADDING
        _at_most(len(body), limit, "bytes in a packed bitmap of its size")


def _check_metadata(content: bytes) -> None:
    """Metadata have a directory or two."""
    check_directories(content.removeprefix(b"Exif\0\0"), _MAX_DIRECTORIES)


def _at_most(number: int, limit: int, what: str) -> None:
    if number > limit:
        raise Refusal("undecodable", f"more than {limit} {what}")
