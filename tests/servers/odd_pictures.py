"""Pictures in all the forms that the web has, and files that only look like pictures.

The honest ones show four quadrants, each of one colour, so that a turn, a wrong frame or a wrong colour is seen.
"""

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image

WIDTH, HEIGHT = 48, 32
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
QUADRANTS = (RED, GREEN, BLUE, YELLOW)
"""Top left, top right, bottom left, bottom right."""
BOMB_SIDE = 60_000
FRAMES_OF_A_BOMB = 300

_TURN_RIGHT = 6
"""EXIF orientation of a picture that was stored turned to the left."""
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB = 0, 2


def quadrants(colours: Sequence[tuple[int, ...]] = QUADRANTS, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (WIDTH, HEIGHT))
    for number, colour in enumerate(colours):
        place = (number % 2 * WIDTH // 2, number // 2 * HEIGHT // 2)
        image.paste(Image.new(mode, (WIDTH // 2, HEIGHT // 2), colour), place)
    return image


def written(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def good_jpeg() -> bytes:
    return written(quadrants(), "JPEG", quality=95)


def busy_picture() -> Image.Image:
    """256 x 256 pixels in which every part of the file tells of another part of the picture."""
    ramp = Image.radial_gradient("L")
    return Image.merge("RGB", (ramp, ramp.rotate(90), Image.linear_gradient("L"))).effect_spread(40)


def turned_jpeg() -> bytes:
    """Stored 48 x 32 with red at the top left; shown 32 x 48 with blue there."""
    exif = Image.Exif()
    exif[0x0112] = _TURN_RIGHT
    exif[0x010E] = "taken at home"
    return written(quadrants(), "JPEG", quality=95, exif=exif)


def two_pictures_in_one_jpeg() -> bytes:
    """A Multi-Picture file, as telephones write them."""
    second = Image.new("RGB", (WIDTH, HEIGHT))
    return written(quadrants(), "MPO", save_all=True, append_images=[second])


def gray_png_of_16_bits(value: int) -> bytes:
    row = b"\0" + value.to_bytes(2, "big") * WIDTH
    return png(WIDTH, HEIGHT, 16, _GRAY, zlib.compress(row * HEIGHT))


def colour_png_of_16_bits(colour: tuple[int, int, int]) -> bytes:
    row = b"\0" + struct.pack(">3H", *colour) * WIDTH
    return png(WIDTH, HEIGHT, 16, _RGB, zlib.compress(row * HEIGHT))


def palette_png(*, transparent: bool) -> bytes:
    """With `transparent`, the top left is transparent instead of red."""
    image = quadrants().quantize(4)
    red = image.getpixel((0, 0))
    return written(image, "PNG", **({"transparency": red} if transparent else {}))


def half_seen() -> Image.Image:
    """The top left is transparent, with black beneath; the rest is opaque."""
    return quadrants([(*BLACK, 0), *((*colour, 255) for colour in QUADRANTS[1:])], "RGBA")


def gray_with_alpha() -> Image.Image:
    return quadrants([(0, 0), (80, 255), (160, 255), (240, 255)], "LA")


def animation(format: str, num_frames: int = 3) -> bytes:
    """The quadrants, then frames of one gray each, all different."""
    others = [Image.new("RGB", (WIDTH, HEIGHT), (n % 250, n // 250, 9)) for n in range(num_frames)]
    options = {"save_all": True, "append_images": others[1:], "duration": 50}
    if format == "WEBP":
        options["lossless"] = True  # otherwise frames that look the same become one
    return written(quadrants(), format, **options)


def png(width: int, height: int, depth: int, colour_type: int, data: bytes, *extra: bytes) -> bytes:
    """Write a PNG by hand; `extra` chunks stand before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return _PNG_MAGIC + b"".join(chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def lying_png() -> bytes:
    """Says 3.6 gigapixels and holds one row of nothing."""
    return png(BOMB_SIDE, BOMB_SIDE, 8, _RGB, zlib.compress(bytes(100)))


def real_png_bomb(side: int = 16_000) -> bytes:
    """Really is 256 megapixels, of one bit each: 32 kB that become 768 MB as RGB."""
    return png(side, side, 1, _GRAY, zlib.compress(bytes((1 + side // 8) * side), 9))


def png_with_profile_bomb() -> bytes:
    """A small picture whose colour profile is 40 MB, compressed."""
    profile = b"profile\0\0" + zlib.compress(bytes(40_000_000), 9)
    pixels = zlib.compress(b"\0\0" * 8)
    return png(1, 8, 8, _GRAY, pixels, chunk(b"iCCP", profile))


def png_with_text_bomb() -> bytes:
    """A small picture with a comment of 40 MB, compressed."""
    text = b"Comment\0\0" + zlib.compress(bytes(40_000_000), 9)
    pixels = zlib.compress(b"\0\0" * 8)
    return png(1, 8, 8, _GRAY, pixels, chunk(b"zTXt", text))


def png_of_many_frames() -> bytes:
    """Says that it has two thousand million frames."""
    content = animation("PNG")
    start = content.index(b"acTL")
    count = struct.pack(">I", 2_000_000_000) + content[start + 8 : start + 12]
    return content[: start - 4] + chunk(b"acTL", count) + content[start + 16 :]


def png_with_a_broken_header() -> bytes:
    content = bytearray(written(quadrants(), "PNG"))
    content[20] ^= 0xFF  # in the height, which the checksum no longer fits
    return bytes(content)


def png_with_an_endless_chunk() -> bytes:
    """A chunk that says it is 2 GB long, and ends after a few bytes."""
    content = written(quadrants(), "PNG")
    start = content.index(b"IDAT")
    return content[: start - 4] + struct.pack(">I", 0x7FFF_FFFF) + content[start : start + 40]


def lying_jpeg() -> bytes:
    """Says 4.2 gigapixels."""
    content = bytearray(good_jpeg())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", 65_000, 65_000)
    return bytes(content)


def jpeg_of_many_scans(num_scans: int = 1_000) -> bytes:
    """A progressive picture under the pixel limit that says its last refinement again and again."""
    content = written(Image.new("L", (960, 960), 99), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    scan = content[last:-2]
    return content[:last] + scan * num_scans + b"\xff\xd9"


def lying_gif() -> bytes:
    content = bytearray(written(quadrants(), "GIF"))
    content[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(content)


def gif_without_a_size() -> bytes:
    content = bytearray(written(quadrants(), "GIF"))
    content[6:10] = bytes(4)
    start = content.index(b"\x2c\0\0\0\0")
    content[start + 5 : start + 9] = bytes(4)
    return bytes(content)


def lying_webp() -> bytes:
    """An extended WebP whose canvas is 16384 x 16384."""
    content = bytearray(animation("WEBP"))
    start = content.index(b"VP8X") + 12
    content[start : start + 6] = (16_383).to_bytes(3, "little") * 2
    return bytes(content)


def lying_bmp() -> bytes:
    content = bytearray(written(quadrants(), "BMP"))
    content[18:26] = struct.pack("<ii", BOMB_SIDE, BOMB_SIDE)
    return bytes(content)


def lying_tiff() -> bytes:
    """An uncompressed gray picture of 3.6 gigapixels whose only strip is four bytes long."""
    entries = [
        (256, 4, BOMB_SIDE),  # width
        (257, 4, BOMB_SIDE),  # height
        (258, 3, 8),  # bits a sample
        (259, 3, 1),  # no compression
        (262, 3, 1),  # black is zero
        (273, 4, 8),  # where the strip is
        (277, 3, 1),  # samples a pixel
        (278, 4, BOMB_SIDE),  # rows a strip
        (279, 4, 4),  # bytes of the strip
    ]
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    folder = struct.pack("<H", len(entries)) + fields + bytes(4)
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + folder


def tiff_that_goes_in_circles() -> bytes:
    """A TIFF whose only page says that it is also the next one."""
    content = bytearray(written(quadrants(), "TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    (num_entries,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", content, start + 2 + 12 * num_entries, start)
    return bytes(content)
