"""Bytes that claim to be a picture: judged by their header before anybody decodes them, and put upright.

img2dataset decodes with OpenCV, which leaves EXIF orientation unapplied, and clips 16 bits to white. So a picture that
is not plain 8-bit grey, RGB or RGBA and upright is decoded here and handed on as a plain one:

- EXIF orientation is applied; no EXIF travels on.
- 16 bits a channel become the upper 8; other depths of one channel likewise.
- CMYK and palettes become RGB; transparency of palettes and of grey lies over white. (RGBA stays: img2dataset lays it
  over white itself.)
- Of an animation the first frame is taken.
"""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from neuclip.egress.config import EgressConfig
from neuclip.egress.refusal import Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_JPEG_MAGIC, _PNG_MAGIC = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MAGIC = (_JPEG_MAGIC, _PNG_MAGIC, b"GIF8", b"BM", b"II*\0", b"MM\0*")
_PLAIN_MODES = ("L", "RGB", "RGBA")
_ORIENTATION = 0x0112
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 100
"""A progressive JPEG has about ten; each costs a pass over all pixels, and a thousand fit into 20 kB."""
_MAX_CHUNKS = 50_000
"""Writers fill a chunk with 8 kB or more."""
_PNG_DEPTH = 24
"""Where the header of a PNG has its bits a channel."""
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    struct.error,
)
"""What Pillow raises over broken files, see its fuzzers."""

Image.MAX_IMAGE_PIXELS = (
    None  # the recipe's limit is the one that counts, and is checked before any decoding
)


class Picture(NamedTuple):
    """What the header says."""

    width: int
    height: int
    is_plain: bool
    """It can be handed on as it is."""


def inspect(body: bytes, config: EgressConfig) -> Picture:
    """Read the header of a picture.

    Raises: Refusal: `not_an_image`, `undecodable`, `too_large` or `too_many_frames`.
    """
    if not body:
        raise Refusal("not_an_image", "no bytes")
    if _is_webp(body):
        _check_pixels(*_webp_size(body), config)  # before Pillow allocates its canvas
    elif body.startswith(_PNG_MAGIC):
        _check_chunks(body)
    elif body.startswith(_JPEG_MAGIC) and body.count(_START_OF_SCAN) > _MAX_SCANS:
        raise Refusal("undecodable", f"a JPEG of more than {_MAX_SCANS} scans")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            _check_pixels(*image.size, config)
            frames: int = getattr(image, "n_frames", 1)
            if frames > config.max_frames:
                raise Refusal(
                    "too_many_frames", f"{frames} frames, allowed are {config.max_frames}"
                )
            return Picture(*image.size, is_plain=frames == 1 and _is_plain(image, body))
    except UnidentifiedImageError as error:
        reason = "undecodable" if _has_magic(body) else "not_an_image"
        raise Refusal(reason, f"begins with {body[:16]!r}") from error
    except _BROKEN as error:
        raise Refusal("undecodable", f"{type(error).__name__}: {error}") from error


def may_take_long(body: bytes) -> bool:
    """Tell whether the header can only be judged by walking through the file: animations, many pages."""
    return not body.startswith(_MAGIC[:2])


def make_plain(body: bytes) -> bytes:
    """Decode a picture that is not plain and return it as an upright 8-bit BMP, which costs no time to pack.

    Raises: Refusal: `undecodable`.
    """
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            plain = _eight_bits(upright) if upright.mode.startswith(("I", "F")) else upright
            if plain.has_transparency_data:
                layer = plain.convert("RGBA")
                plain = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            buffer = io.BytesIO()
            plain.convert("L" if plain.mode in ("1", "L") else "RGB").save(buffer, "BMP")
            return buffer.getvalue()
    except _BROKEN as error:
        raise Refusal("undecodable", f"{type(error).__name__}: {error}") from error


def _check_pixels(width: int, height: int, config: EgressConfig) -> None:
    if width * height > config.max_image_pixels:
        raise Refusal(
            "too_large", f"{width}x{height} pixels, allowed are {config.max_image_pixels}"
        )


def _check_chunks(body: bytes) -> None:
    """Refuse a PNG that ends inside a chunk: OpenCV allocates what a chunk says, 2 GB for a file of 77 bytes.

    Raises: Refusal: `undecodable`.
    """
    place = len(_PNG_MAGIC)
    for _ in range(_MAX_CHUNKS):
        length = int.from_bytes(body[place : place + 4], "big")
        is_last = body[place + 4 : place + 8] == b"IEND"
        place += 12 + length
        if place > len(body):
            raise Refusal("undecodable", f"cut off {place - len(body)} bytes before a chunk ends")
        if is_last:
            return
    raise Refusal("undecodable", f"a PNG of more than {_MAX_CHUNKS} chunks")


def _is_plain(image: Image.Image, body: bytes) -> bool:
    is_png = image.format == "PNG"
    is_deep = image.format == "TIFF" or (is_png and body[_PNG_DEPTH] > 8)
    if image.mode not in _PLAIN_MODES or is_deep or "transparency" in image.info:
        return False
    if is_png and b"eXIf" not in body:
        return True  # Pillow would decode the whole picture to find none
    return image.getexif().get(_ORIENTATION, 1) == 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 of 16 bits; numbers of other ranges are brought from their own range to 0..255."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) <= 0xFFFF):
        return Image.fromarray((values.clip(0, 0xFFFF) / 256).astype(np.uint8))
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    return Image.fromarray(((values - low) * (255 / ((high - low) or 1))).astype(np.uint8))


def _has_magic(body: bytes) -> bool:
    return body.startswith(_MAGIC) or _is_webp(body)


def _is_webp(body: bytes) -> bool:
    return body[:4] == b"RIFF" and body[8:12] == b"WEBP"


def _webp_size(body: bytes) -> tuple[int, int]:
    """Return width and height that a WebP announces, (0, 0) if it is cut off before (RFC 9649)."""
    kind, head = body[12:16], body[20:30]
    if len(head) < 10:
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return (
        int.from_bytes(head[6:8], "little") & 0x3FFF,
        int.from_bytes(head[8:10], "little") & 0x3FFF,
    )
