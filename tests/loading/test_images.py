import collections
import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from neuclip.acquired.images import _ordinary_jpeg, decode_pixels, decode_rgb
from neuclip.foundation.errors import DataError


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


def decodes_as_pillow(content, **options):
    assert np.array_equal(decode_pixels(content, **options), np.asarray(decode_rgb(content)))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_decodes_to_pillows_pixels(mode, subsampling, progressive):
    """Oracle: Pillow. Odd sides, so that blocks and chroma samples hang over the edges."""
    image = Image.effect_noise((61, 43), 80).convert("RGB").convert(mode)
    options = {"subsampling": subsampling, "progressive": progressive, "quality": 90}
    content = encoded(image, "JPEG", **options)
    decodes_as_pillow(content)
    decodes_as_pillow(encoded(ramp(61, 43).convert(mode), "JPEG", **options))
    whole = _ordinary_jpeg(content, 10_000, lambda size: 1)
    assert (whole is None) == (mode == "CMYK"), "took the other way than expected"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_xmp", [False, True])
def test_an_orientation_is_applied_as_pillow_does(orientation, as_xmp):
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{orientation}"/></x:xmpmeta>'
    options = {"xmp": xmp.encode()} if as_xmp else {"exif": exif}
    content = encoded(ramp(24, 16), "JPEG", **options)
    decodes_as_pillow(content)
    assert decode_pixels(content).shape == ((24, 16, 3) if orientation >= 5 else (16, 24, 3))
    assert (_ordinary_jpeg(content, 10_000, lambda size: 1) is None) == (orientation > 1)


def test_pixels_of_other_formats_are_pillows():
    for kind in ("PNG", "WEBP"):
        decodes_as_pillow(encoded(ramp(), kind))
    decodes_as_pillow(encoded(ramp(), "JPEG") + b"more after the end")


def test_a_large_jpeg_is_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="24 x 16 pixels is above the limit of 383"):
        decode_pixels(encoded(ramp(), "JPEG"), max_pixels=383)
    header = bytearray(encoded(ramp(), "JPEG"))
    place = header.index(b"\xff\xc0") + 5
    header[place : place + 4] = b"\xff\xff\xff\xff"  # says 65535 x 65535
    with pytest.raises(DataError, match=r"exceeds limit|above the limit"):
        decode_pixels(bytes(header))


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_jpeg_has_the_mean_of_its_blocks(reduction):
    """Oracle: the mean over squares of the image decoded whole, on smooth content."""
    smooth = Image.effect_noise((8, 8), 60).resize((128, 96), Image.Resampling.BICUBIC)
    content = encoded(smooth.convert("RGB"), "JPEG", quality=95)
    pixels = decode_pixels(content, reduction=lambda size: {(128, 96): reduction}[size])
    squares = decode_pixels(content).reshape(
        96 // reduction, reduction, 128 // reduction, reduction, 3
    )
    assert pixels.shape == (96 // reduction, 128 // reduction, 3)
    assert np.abs(pixels - squares.mean(axis=(1, 3))).max() < 3


def test_whatever_libjpeg_turbo_takes_pillow_takes_alike():
    """Oracle: Pillow, on a JPEG with bytes that were changed at random, some of it still an image."""
    draw, outcomes = np.random.default_rng(0), collections.Counter()
    content = encoded(Image.effect_noise((60, 40), 70).convert("RGB"), "JPEG", quality=80)
    for _ in range(500):
        damaged = bytearray(content[: draw.choice([len(content), draw.integers(2, len(content))])])
        for place in draw.integers(len(damaged), size=draw.integers(0, 3)):
            damaged[place] = draw.integers(256)
        try:
            expected = np.asarray(decode_rgb(bytes(damaged)))
        except DataError:
            with pytest.raises(DataError):
                decode_pixels(bytes(damaged))
            outcomes["corrupt"] += 1
        else:
            assert np.array_equal(decode_pixels(bytes(damaged)), expected)
            outcomes["image"] += 1
    assert min(outcomes.values()) > 50
