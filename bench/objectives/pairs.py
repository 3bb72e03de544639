"""Reading of the real pairs: pictures of emoji by four vendors, and photos of groceries.

The split is the folder's own. Training: all its training rows. Retrieval: the emoji of its test
split, of which a picture and all texts equal to its own belong together. Classification: the
grocery photos of its test split, to be told apart by product; its classes are captions that were
trained on, in other photos.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

PARTS = ("train", "retrieval", "products")
_COLUMNS = ["archive", "path", "caption", "captions_extra", "split", "test_kind"]
_BACKGROUND = "white"


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of training and test, in the table's order."""
    rows = pq.read_table(folder / "pairs.parquet", columns=_COLUMNS).to_pylist()
    return [row for row in rows if row["split"] in ("train", "test")]


def part(rows: list[dict[str, Any]], name: str) -> list[int]:
    """Return the numbers of the rows of a part."""
    return [i for i, row in enumerate(rows) if _part_of(row) == name]


def read_images(folder: Path, rows: list[dict[str, Any]], image_px: int) -> Tensor:
    """Decode the rows' pictures, on white and scaled to a square."""
    images = np.empty((len(rows), image_px, image_px, 3), np.uint8)
    for archive in sorted({row["archive"] for row in rows}):
        with zipfile.ZipFile(folder / archive) as opened:
            for i, row in enumerate(rows):
                if row["archive"] == archive:
                    images[i] = _decode(opened.read(row["path"]), image_px)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _part_of(row: dict[str, Any]) -> str:
    if row["split"] == "train":
        return "train"
    return "products" if row["test_kind"] == "official_split" else "retrieval"


def _decode(content: bytes, image_px: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    flat = Image.new("RGBA", picture.size, _BACKGROUND)
    flat.alpha_composite(picture)
    size = (image_px, image_px)
    return np.asarray(flat.convert("RGB").resize(size, Image.Resampling.BICUBIC))
