"""From the bytes of a stored image to RGB pixels, for bytes that a stranger wrote."""

import io

import numpy as np
from PIL import Image, ImageOps

from neuclip.foundation.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 64_000_000
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L")


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
