"""Pictures small enough to be part of a page."""

import base64
import io
from dataclasses import dataclass

from neuclip.acquired.images import decode_rgb

_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A picture as a data: URI of a JPEG, and the size of the one that it was made of, in pixels."""

    uri: str
    width: int
    height: int


def small_picture(content: bytes, side_px: int) -> Picture:
    """Make a picture of an image file that is at most so wide and high.

    Raises: DataError: if the file does not decode.
    """
    image = decode_rgb(content)
    width, height = image.size
    image.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/jpeg;base64,{encoded}", width, height)
