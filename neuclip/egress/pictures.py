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

from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from neuclip.egress import containers
from neuclip.egress.config import EgressConfig
from neuclip.egress.containers import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGIC, is_webp
from neuclip.egress.refusal import Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_MAGIC = (JPEG_MAGIC, PNG_MAGIC, b"GIF8", b"BM", *TIFF_MAGIC)
_PLAIN_MODES = ("L", "RGB", "RGBA")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its orientation (EXIF 2.3, 4.6.4)."""
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
    if is_webp(body):
        _check_pixels(*_webp_size(body), config)  # before Pillow allocates its canvas
    containers.check(body, config.max_frames)
    try:
        with _opened(body) as image:
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


def make_plain(body: bytes) -> memoryview:
    """Decode a picture that is not plain and return it as an upright 8-bit BMP, which costs no time to pack.

    Raises: Refusal: `undecodable`.
    """
    try:
        with _opened(body) as image:
            image.load()
            turn = _TURNS.get(_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            plain = _eight_bits(upright) if upright.mode.startswith(("I", "F")) else upright
            if plain.has_transparency_data:
                layer = plain.convert("RGBA")
                plain = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            buffer = io.BytesIO()
            plain.convert("L" if plain.mode in ("1", "L") else "RGB").save(buffer, "BMP")
            return buffer.getbuffer()
    except _BROKEN as error:
        raise Refusal("undecodable", f"{type(error).__name__}: {error}") from error


def _check_pixels(width: int, height: int, config: EgressConfig) -> None:
    if width * height > config.max_image_pixels:
        raise Refusal(
            "too_large", f"{width}x{height} pixels, allowed are {config.max_image_pixels}"
        )


def _opened(body: bytes) -> ImageFile.ImageFile:
    """Read the header; of a JPEG the first picture's, whatever further ones it says that there are."""
    file = io.BytesIO(body)
    if body.startswith(JPEG_MAGIC):
        return JpegImageFile(file)
    return Image.open(file, formats=FORMATS)


def _is_plain(image: Image.Image, body: bytes) -> bool:
    is_png = image.format == "PNG"
    is_deep = image.format == "TIFF" or (is_png and body[_PNG_DEPTH] > 8)
    if image.mode not in _PLAIN_MODES or is_deep or "transparency" in image.info:
        return False
    if is_png and "exif" not in image.info:
        return b"eXIf" not in body  # behind the pixels, which are decoded to find it
    return _orientation(image) == 1


def _orientation(image: Image.Image) -> int:
    """Return how a picture that was opened lies; broken metadata are no part of it, and say nothing."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return found if found in _TURNS else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 of 16 bits; numbers of other ranges are brought from their own range to 0..255."""
    import numpy as np  # needed seldom, and half of what the process that reads pictures would start with

    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) <= 0xFFFF):
        return Image.fromarray((values.clip(0, 0xFFFF) >> 8).astype(np.uint8))
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= 255 / ((high - low) or 1)
    return Image.fromarray(scaled.astype(np.uint8))


def _has_magic(body: bytes) -> bool:
    return body.startswith(_MAGIC) or is_webp(body)


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
