"""An image as the data URL that a question carries it in."""

import base64
import io

from PIL import Image

from neuclip.egress import pictures
from neuclip.egress.config import EgressConfig
from neuclip.egress.containers import JPEG_MAGIC, PNG_MAGIC, is_webp
from neuclip.foundation.errors import DataError

_LIMITS = EgressConfig()
"""Of pixels, frames and metadata, as for whatever comes from the web."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""What models read, and what other pictures are made upright as."""
_QUALITY = 90
_COARSE = (1, 1)
"""The size that a JPEG is decoded near to, in an eighth of its sides at most: half the time."""


def image_url(content: bytes, *, longest_px: int) -> str:
    """Return a JPEG, PNG or WebP as a data URL.

    The file goes as it is if it is upright, in 8 bits, of one frame and not larger; else its first frame goes upright
    as a JPEG, transparency on white, shrunk so that its longer side has `longest_px`.

    Raises: DataError: if it cannot be decoded whole, or is beyond the limits of what may be decoded.
    """
    media_type = _media_type(content)
    try:
        is_plain = pictures.inspect(content, _LIMITS).is_plain
        file = io.BytesIO(content if is_plain else pictures.make_plain(content))
        with Image.open(file, formats=_FORMATS) as image:
            if is_plain and max(image.size) <= longest_px:
                image.draft("L", _COARSE)  # only shows whether all of it is there
                image.load()
            else:
                image.draft(None, (longest_px, longest_px))
                content, media_type = _jpeg(image, longest_px), "image/jpeg"
    except Exception as error:  # a decoder of foreign bytes may raise anything
        raise DataError(f"an image of {len(content)} bytes does not decode: {error}") from error
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _media_type(content: bytes) -> str:
    if content.startswith(JPEG_MAGIC):
        return "image/jpeg"
    if content.startswith(PNG_MAGIC):
        return "image/png"
    if is_webp(content):
        return "image/webp"
    raise DataError(
        f"expected a JPEG, PNG or WebP, found {len(content)} bytes that begin with {content[:8]!r}"
    )


def _jpeg(image: Image.Image, longest_px: int) -> bytes:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    colours = image.convert("RGB")
    colours.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    colours.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
