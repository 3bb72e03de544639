"""From the bytes of a stored image to RGB pixels, for untrusted bytes."""

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from neuclip.foundation.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 64_000_000
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L")
_JPEG_START = b"\xff\xd8\xff"
_NOTES = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/")  # an orientation stands in one of these
_TURNED = range(2, 9)
_ORDINARY = ("YCbCr", "Gray", "RGB")  # colour spaces that both decoders make the same RGB of


def whole(size: tuple[int, int]) -> int:
    """Decode at full size."""
    del size
    return 1


def decode_pixels(
    content: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    reduction: Callable[[tuple[int, int]], int] = whole,
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode to the pixels of `decode_rgb`; an ordinary JPEG 1.5 times as fast, by libjpeg-turbo.

    Args:
        content: the whole file.
        max_pixels: most pixels, read in the header before anything is decoded.
        reduction: tells for (width, height) by which of 1, 2, 4, 8 the sides of an ordinary JPEG are divided,
            rounding up: only the low frequencies of its blocks are decoded then. Other images stay whole.
    Raises: DataError: as `decode_rgb`, which judges all that libjpeg-turbo has doubts about.
    """
    pixels = _ordinary_jpeg(content, max_pixels, reduction)
    return np.array(decode_rgb(content, max_pixels=max_pixels)) if pixels is None else pixels


def _ordinary_jpeg(
    content: bytes, max_pixels: int, reduction: Callable[[tuple[int, int]], int]
) -> UInt8[np.ndarray, "H W 3"] | None:
    """Decode a sound, upright JPEG in gray or three colours; None for everything else."""
    if not content.startswith(_JPEG_START):
        return None
    try:
        *sides, colours, _ = simplejpeg.decode_jpeg_header(content)
        height, width = map(int, sides)
        if colours not in _ORDINARY or width * height > max_pixels or not _is_upright(content):
            return None
        factor = reduction((width, height))
        return simplejpeg.decode_jpeg(
            content,
            min_height=-(-height // factor),
            min_width=-(-width // factor),
            min_factor=factor,
        )
    except Exception:  # noqa: BLE001  # foreign bytes: Pillow says whether they are an image, and why not
        return None


def _is_upright(content: bytes) -> bool:
    """Tell whether a JPEG is stored as it is meant to be seen."""
    if not any(note in content for note in _NOTES):
        return True
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return image.getexif().get(ExifTags.Base.Orientation) not in _TURNED


def decode_rgb(content: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a JPEG, PNG or WebP as it is meant to be seen, as 8-bit RGB.

    The first frame is taken; the EXIF orientation is applied; transparency is flattened on white; 16-bit
    gray keeps its highest eight bits; gray, palette and CMYK are converted.

    Args:
        content: the whole file.
        max_pixels: most pixels, read in the header before anything is decoded.
    Raises: DataError: with the reason, for whatever cannot be decoded whole.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _require_at_most(max_pixels, image.size)
            image.load()
            return _as_rgb(_upright(image))
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"{len(content)} bytes are not an image in {', '.join(FORMATS)}; they start with {content[:8]!r}"
        ) from error
    except Exception as error:  # a decoder of foreign bytes may raise anything
        raise DataError(f"an image of {len(content)} bytes does not decode: {error}") from error


def _require_at_most(max_pixels: int, size: tuple[int, int]) -> None:
    """Refuse an image that would not fit into memory when decoded."""
    width, height = size
    if width * height > max_pixels:
        raise DataError(
            f"an image of {width} x {height} pixels is above the limit of {max_pixels} pixels"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation that a camera noted; most images note none, which is found without parsing."""
    if any(key in image.info for key in _ORIENTATION_KEYS):
        return ImageOps.exif_transpose(image)
    return image


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert every mode that the three formats decode to."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image
    if image.mode in _WIDE_MODES:
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert(
            "RGB"
        )
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        colours = image.convert("RGBA")
        flat = Image.new("RGB", image.size, (255, 255, 255))
        flat.paste(colours, mask=colours.getchannel("A"))
        return flat
    return image.convert("RGB")
