"""Directories of tags, in a TIFF, in EXIF and in a Multi-Picture JPEG: walked before a library reads them.

A directory may be read as often as another names it, and a value as often as a tag points to it, so a small file can
ask for any amount of work. This walk is linear and stops at its limits.
"""

import struct

from neuclip.egress.refusal import Refusal

_ORDERS = {b"II": "<", b"MM": ">"}
_VALUE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""Bytes of one value, by the number of its type (TIFF 6.0; BigTIFF)."""
_BIG = 43
_MAX_TAGS = 30_000
_SHARED = 4
"""How often all bytes of a file may be pointed to; honest writers point to each byte once."""
_SMALL_BYTES = 65_536


def check_directories(content: bytes, max_frames: int) -> None:
    """Walk from directory to directory, as far as they can be read; each is a page of a TIFF.

    Raises: Refusal: `too_many_frames`, or `undecodable` for too many tags or values.
    """
    order = _ORDERS.get(content[:2], "<")
    is_big = content[2:4] in (b"\x2b\0", b"\0\x2b")
    try:
        (place,) = struct.unpack_from(
            f"{order}{'Q' if is_big else 'I'}", content, 8 if is_big else 4
        )
        _walk(content, place, max_frames, f"{order}Q" if is_big else f"{order}I", is_big=is_big)
    except struct.error:
        return  # cut off: what is there has been walked


def _walk(content: bytes, place: int, max_frames: int, offset: str, *, is_big: bool) -> None:
    order = offset[0]
    tag, count = (f"{order}HHQQ", f"{order}Q") if is_big else (f"{order}HHII", f"{order}H")
    tag_bytes, inline_bytes = struct.calcsize(tag), struct.calcsize(offset)
    seen: set[int] = set()
    num_tags = num_bytes = 0
    while place and place not in seen:
        seen.add(place)
        if len(seen) > max_frames:
            raise Refusal(
                "too_many_frames", f"more than {max_frames} pages, allowed are {max_frames}"
            )
        (tags,) = struct.unpack_from(count, content, place)
        place += struct.calcsize(count)
        num_tags += tags
        if num_tags > _MAX_TAGS:
            raise Refusal("undecodable", f"more than {_MAX_TAGS} tags")
        for _ in range(tags):
            _, kind, values, at = struct.unpack_from(tag, content, place)
            size = _VALUE_BYTES.get(kind, 0) * values
            if size > inline_bytes:
                num_bytes += max(0, min(size, len(content) - at))
            place += tag_bytes
        if num_bytes > _SHARED * len(content) + _SMALL_BYTES:
            raise Refusal("undecodable", "tags point to the same bytes again and again")
        (place,) = struct.unpack_from(offset, content, place)
