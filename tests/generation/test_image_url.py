"""Images in questions. Oracle: Pillow decodes what was sent, and quadrants whose colours are known."""

import base64
import io

import pytest
from PIL import Image

from neuclip.foundation.errors import DataError
from neuclip.generation.image_url import image_url
from tests.servers import odd_pictures
from tests.servers.odd_pictures import busy_picture, turned_jpeg, written


def sent(content, longest_px=512):
    media_type, _, body = image_url(content, longest_px=longest_px).partition(";base64,")
    return media_type, base64.b64decode(body, validate=True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_is_small_goes_as_it_is(kind):
    content = written(busy_picture().resize((512, 300)), kind)
    assert sent(content) == (f"data:image/{kind.lower()}", content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(800, 200), (200, 800), (130, 65)])
def test_what_is_large_is_shrunk_in_its_proportions(kind, size):
    whole = busy_picture().resize(size)
    media_type, body = sent(written(whole, kind), longest_px=128)
    with Image.open(io.BytesIO(body)) as image:
        longer, shorter = max(image.size), min(image.size)
        assert (media_type, image.format, longer) == ("data:image/jpeg", "JPEG", 128)
        assert shorter == round(128 * min(size) / max(size))
        assert (image.width > image.height) == (size[0] > size[1])


def test_what_lies_on_its_side_is_set_upright():
    media_type, body = sent(turned_jpeg())
    with Image.open(io.BytesIO(body)) as image:
        assert (media_type, image.size) == ("data:image/jpeg", (32, 48))
        red, green, blue = image.convert("RGB").getpixel((4, 4))
        assert blue > 200 > red + green


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    _, body = sent(written(clear, "PNG"), longest_px=100)
    with Image.open(io.BytesIO(body)) as image:
        assert image.getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\xff\xd8\xff",
        written(busy_picture(), "JPEG")[:2000],
        written(busy_picture(), "PNG")[:2000],
        written(busy_picture(), "WEBP")[:500],
        written(busy_picture(), "GIF"),
        written(busy_picture(), "BMP"),
        odd_pictures.real_png_bomb(),
        odd_pictures.jpeg_of_many_scans(),
    ],
    ids=lambda content: f"{content[:4]!r}",
)
def test_what_cannot_be_read_is_refused(content):
    with pytest.raises(DataError):
        image_url(content, longest_px=512)
