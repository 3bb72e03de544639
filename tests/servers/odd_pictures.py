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


FILM = (
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(range(256)) * 40 + b"\xff\xda\xff\xd9mdat" * 500
)
"""What a telephone puts behind the picture: a film, in which bytes look like parts of a picture."""


def broken_exif() -> dict[str, bytes]:
    """Sound JPEGs whose metadata are not."""
    content = good_jpeg()
    exif = {
        "noise": bytes(range(256)),
        "nothing": b"",
        "half": b"II*\0\x08\0\0\0\x40\0",
        "far": b"MM\0*\xff\xff\xff\xf0" + bytes(20),
        "circle": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "fraction": b"II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x1a\0\0\0\0\0\0\0" + bytes(8),
        "nine": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0" + bytes(4),
    }
    return {n: with_segment(content, 0xE1, b"Exif\0\0" + data) for n, data in exif.items()}


def exif_turned() -> bytes:
    """EXIF of nothing but how the picture lies."""
    return b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes((_TURN_RIGHT, *[0] * 7))


def with_segment(content: bytes, marker: int, data: bytes) -> bytes:
    """Put a segment behind a JPEG's first two bytes."""
    return content[:2] + segment(marker, data) + content[2:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def telephone_without_its_second() -> bytes:
    """A Multi-Picture file of which somebody kept the first picture only, and its list of two."""
    content = two_pictures_in_one_jpeg()
    return content[: content.index(b"\xff\xd9") + 2]


def jpeg_of_padding(num_bytes: int) -> bytes:
    """Nothing between the first segments but what a reader is to pass over."""
    content = good_jpeg()
    return content[:2] + b"\xff" * num_bytes + content[2:]


def jpeg_of_segments(num_bytes: int) -> bytes:
    content = good_jpeg()
    return content[:2] + segment(0xFE, b"") * (num_bytes // 4) + content[2:]


def jpeg_of_profiles(num_bytes: int) -> bytes:
    """Says the parts of a colour profile again and again."""
    part = segment(0xE2, b"ICC_PROFILE\0\x01\xff" + bytes(100))
    content = good_jpeg()
    return content[:2] + part * (num_bytes // len(part)) + content[2:]


def shared_tags(num_tags: int, num_bytes: int) -> bytes:
    """A directory whose tags all point to the same bytes."""
    folder = struct.pack("<4sIH", b"II*\0", 8, num_tags)
    start = len(folder) + 12 * num_tags + 4
    tags = b"".join(struct.pack("<HHII", 1 + n, 7, num_bytes, start) for n in range(num_tags))
    return folder + tags + bytes(4) + bytes(num_bytes)


def jpeg_with_shared_tags() -> bytes:
    """64 kB of EXIF that become 140 MB, one time for every part of it that is said again."""
    return with_segment(good_jpeg(), 0xE1, b"Exif\0\0" + shared_tags(3_000, 29_000))


def png_with_shared_tags() -> bytes:
    """1.4 MB of EXIF that become 38 GB."""
    exif = shared_tags(60_000, 640_000)
    return png(1, 8, 8, _GRAY, zlib.compress(b"\0\0" * 8), chunk(b"eXIf", exif))


def tiff_of_pages(num_bytes: int) -> bytes:
    """One page after the other, each of one pixel, until the file is full."""
    fields = [
        (256, 4, 1),
        (257, 4, 1),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (279, 4, 1),
    ]
    tags = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    size = 2 + len(tags) + 4
    pages = [
        struct.pack("<H", len(fields)) + tags + struct.pack("<I", 12 + size * (number + 1))
        for number in range(num_bytes // size)
    ]
    pages[-1] = pages[-1][:-4] + bytes(4)
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + b"".join(pages)


def gif_of_frames(num_bytes: int) -> bytes:
    """A frame of one pixel, as often as there is place for it."""
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x4c\x01\0"
    head = b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    return head + frame * (num_bytes // len(frame)) + b";"


def gif_with(extension: bytes) -> bytes:
    """A GIF with something between its head and its first picture."""
    content = written(quadrants(), "GIF")
    start = 13 + (3 << (content[10] & 7) + 1)
    return content[:start] + extension + content[start:]


def gif_of_comments(num_bytes: int) -> bytes:
    """A reader that puts a comment's blocks together one by one copies terabytes."""
    return gif_with(b"\x21\xfe" + (b"\xff" + bytes(255)) * (num_bytes // 256) + b"\0")


def gif_of_small_blocks(num_bytes: int) -> bytes:
    return gif_with(b"\x21\xff" + b"\x01a" * (num_bytes // 2) + b"\0")


def gif_of_nothing(num_bytes: int) -> bytes:
    return gif_with(bytes(num_bytes))


def png_of_texts(num_texts: int = 2_000) -> bytes:
    """Each of its compressed texts becomes a megabyte."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9))
    return png(1, 8, 8, _GRAY, zlib.compress(b"\0\0" * 8), text * num_texts)


def png_of_chunks(num_bytes: int) -> bytes:
    return png(1, 8, 8, _GRAY, zlib.compress(b"\0\0" * 8), chunk(b"tEXt", b"") * (num_bytes // 12))


def webp_of_frames(num_bytes: int) -> bytes:
    """Frames of nothing; and an end that says it is one."""
    frame = b"ANMF" + struct.pack("<I", 16) + bytes(16)
    head = (
        b"VP8X" + struct.pack("<IB", 10, 2) + bytes(9) + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    )
    content = b"WEBP" + head + frame * (num_bytes // len(frame))
    return b"RIFF" + struct.pack("<I", len(content)) + content


def bmp_of_line_ends(num_bytes: int, side: int = 16) -> bytes:
    """A packed picture that says nothing but where its lines end; Pillow unpacks it in Python."""
    start = 14 + 40 + 4 * 256
    head = struct.pack("<2sIII", b"BM", start + num_bytes, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, num_bytes, 0, 0, 256, 0)
    return head + info + bytes(4 * 256) + b"\0\0" * (num_bytes // 2)


def large_and_deep() -> bytes:
    """49 megapixels of 16 bits, in 100 kB: no lie, and half a second's work at least."""
    return written(Image.new("I;16", (7_000, 7_000)), "PNG")


def endless_rules(num_lines: int = 12_000) -> bytes:
    """A robots.txt whose rules count for so many agents that putting them together never ends."""
    agents = "".join(f"User-agent: a{number}\n" for number in range(num_lines))
    return (agents + "".join(f"Disallow: /{number}\n" for number in range(num_lines))).encode()
