"""Oracle: pictures damaged at random; whatever they have become, they are judged, and soon."""

import random
import time

import pytest

from neuclip.egress import pictures
from neuclip.egress.config import EgressConfig
from neuclip.egress.refusal import Refusal
from tests.servers import odd_pictures
from tests.servers.odd_pictures import busy_picture, quadrants, written

CONFIG = EgressConfig(max_image_pixels=1_000_000, max_frames=100)
WHOLE = {
    "turned jpeg": odd_pictures.turned_jpeg(),
    "progressive jpeg": written(busy_picture(), "JPEG", progressive=True),
    "telephone": odd_pictures.two_pictures_in_one_jpeg(),
    "palette png": odd_pictures.palette_png(transparent=True),
    "deep png": odd_pictures.colour_png_of_16_bits((1, 2, 3)),
    "animated png": odd_pictures.animation("PNG"),
    "gif": odd_pictures.animation("GIF"),
    "webp": written(busy_picture(), "WEBP"),
    "animated webp": odd_pictures.animation("WEBP"),
    "bmp": written(quadrants(), "BMP"),
    "tiff": written(quadrants(), "TIFF", compression="tiff_lzw"),
    "cmyk tiff": written(quadrants().convert("CMYK"), "TIFF"),
}
TIMES = 60
LONGEST_S = 10
"""One that took long would take minutes; a busy machine may pause for seconds."""


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Change, take out or repeat a few bytes, rather at the beginning, where the header is."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(min(len(found), chance.choice([64, len(found)])))
        kind = chance.randrange(4)
        if kind == 0:
            found[place] = chance.choice([0, 0x7F, 0x80, 0xFF])
        elif kind == 1:
            found[place : place + 4] = chance.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)])
        elif kind == 2:
            del found[place : place + chance.randint(1, 20)]
        else:
            found[place:place] = found[place : place + chance.randint(1, 50)]
    return bytes(found)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of odd metadata
@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_picture_is_refused_or_read(name):
    chance = random.Random(name)
    reasons: set[str] = set()
    for _ in range(TIMES):
        body = damaged(WHOLE[name], chance)
        began = time.monotonic()
        try:
            if not pictures.inspect(body, CONFIG).is_plain:
                pictures.make_plain(body)
        except Refusal as refusal:
            reasons.add(refusal.reason)
        assert time.monotonic() - began < LONGEST_S
    assert reasons  # or the damage does nothing
    assert reasons <= {"undecodable", "not_an_image", "too_large", "too_many_frames"}
