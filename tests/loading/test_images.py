import io

import numpy as np
import pytest
from PIL import Image

from neuclip.foundation.errors import DataError
from neuclip.loading.images import decode_rgb


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(width=24, height=16):
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 10, rows * 15, columns + rows], axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_three_formats_decode_as_pillow_does(kind):
    """Oracle: Pillow's own decode."""
    content = encoded(ramp(), kind)
    image = decode_rgb(content)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_and_palette_become_rgb(mode):
    source = ramp().convert(mode)
    expected = np.asarray(source.convert("RGB"))
    assert np.array_equal(np.asarray(decode_rgb(encoded(source))), expected)


def test_cmyk_becomes_rgb():
    image = decode_rgb(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).reshape(-1, 3).mean(axis=0) - [255, 0, 0]).max() < 6


def test_sixteen_bit_gray_keeps_its_highest_bits():
    """Hand-made: 0, half and all of 16 bits are 0, 127 and 255 of 8."""
    values = np.array([[0, 0x7FFF, 0xFFFF]], dtype=np.uint16)
    pixels = np.asarray(decode_rgb(encoded(Image.fromarray(values))))
    assert pixels.tolist() == [[[0] * 3, [127] * 3, [255] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_flattened_on_white(kind):
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert np.asarray(decode_rgb(encoded(image, kind, **options))).tolist() == [
        [[255, 255, 255], [200, 0, 0]]
    ]


def test_transparent_palette_entries_are_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(decode_rgb(encoded(image, transparency=0)))
    assert pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(kind):
    """Hand-made: orientation 6 means that the camera was turned, so width and height change places."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = ramp(24, 16)
    assert decode_rgb(encoded(image, kind, exif=exif)).size == (16, 24)


def test_too_many_pixels_are_refused_before_decoding():
    content = encoded(Image.new("1", (30_000, 20_000)))
    with pytest.raises(DataError, match=r"pixels"):
        decode_rgb(content)
    with pytest.raises(DataError, match="24 x 16 pixels is above the limit of 383"):
        decode_rgb(encoded(ramp()), max_pixels=383)
    assert decode_rgb(encoded(ramp()), max_pixels=384).size == (24, 16)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not an image</html>",
        encoded(ramp(), "GIF"),
        encoded(ramp(), "BMP"),
        encoded(ramp(), "TIFF"),
    ],
)
def test_other_formats_are_refused(content):
    with pytest.raises(DataError, match="JPEG, PNG, WEBP"):
        decode_rgb(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cut_file_is_refused(kind):
    content = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), kind)
    with pytest.raises(DataError, match=r"does not decode|not an image"):
        decode_rgb(content[: len(content) // 2])
