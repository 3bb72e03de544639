"""Real pictures from the folder beside the repository, and copies as the web makes them."""

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from end_to_end.pairs_web import repository_pairs
from PIL import Image

from neuclip.acquired.images import decode_rgb

SOURCES = ("noto-emoji", "twemoji", "openmoji", "fluentui-emoji-3d", "grocery-store")


@cache
def _archive(name):
    return zipfile.ZipFile(repository_pairs() / "zips" / name)


def rows(a_source=None):
    """Return rows of the table in a fixed random order; of each source the first `a_source`."""
    table = pq.read_table(repository_pairs() / "pairs.parquet").to_pylist()
    order = np.random.default_rng(0).permutation(len(table)).tolist()
    taken = dict.fromkeys(SOURCES, 0)
    chosen = []
    for number in order:
        row = table[number]
        taken[row["source"]] += 1
        if a_source is None or taken[row["source"]] <= a_source:
            chosen.append(row)
    return chosen


def image_file(row):
    return _archive(Path(row["archive"]).name).read(row["path"])


def _encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _resized(image, random):
    share = random.uniform(0.5, 1.5)
    size = tuple(round(side * share) for side in image.size)
    return _encoded(image.resize(size, Image.Resampling.BICUBIC), "PNG")


def _cropped(image, random):
    """Cut 2 % off each side's length, anywhere."""
    width, height = image.size
    cut_x, cut_y = max(1, round(0.02 * width)), max(1, round(0.02 * height))
    left, top = random.integers(0, cut_x + 1), random.integers(0, cut_y + 1)
    box = (left, top, width - (cut_x - left), height - (cut_y - top))
    return _encoded(image.crop(box), "PNG")


COPIES = {
    "jpeg 75": lambda image, random: _encoded(image, "JPEG", quality=75),
    "jpeg 75 to 90": lambda image, random: _encoded(
        image, "JPEG", quality=int(random.integers(75, 91))
    ),
    "webp 80": lambda image, random: _encoded(image, "WEBP", quality=80),
    "half the size": lambda image, random: _encoded(
        image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC), "PNG"
    ),
    "resized": _resized,
    "cropped": _cropped,
}
"""Ways a picture is copied: name -> from an RGB image to a file."""


def copy_of(row, kind):
    """Return a copy of a row's picture as a file; the same on every call."""
    seed = int(row["uid"][:8], 16)
    return COPIES[kind](decode_rgb(image_file(row)), np.random.default_rng(seed))


def flipped(row):
    image = decode_rgb(image_file(row))
    return _encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG")
