"""Training shards of photographs of 256 px, committed like the shard stage's, and what both loaders are told."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from neuclip.index.reader import SampleTable
from neuclip.index.side_files import (
    SHARD_PART,
    SIDE_FILES,
    SIDE_FILES_SCHEMA,
    texts_name,
    write_texts,
)
from neuclip.shards.tar import TarShard
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage

SHARDS, SAMPLES_PER_SHARD, SIDE_PX, QUALITY = 12, 128, 256, 95
SAMPLES = SHARDS * SAMPLES_PER_SHARD
PHOTOS = Path(__file__).parents[3] / "shared/data/pairs/zips/grocery-store.zip"
PART = "parts/made"
"""Where the shards lie, below the root's `shard` folder."""
_WORDS = [
    "a",
    "photo",
    "of",
    "one",
    "ripe",
    "green",
    "red",
    "apple",
    "pear",
    "milk",
    "carton",
    "on",
    "the",
    "shelf",
    "in",
    "a",
    "shop",
    "seen",
    "from",
    "above",
]


@dataclass(frozen=True)
class Data:
    """Committed shards, where their samples lie, and the index with their texts."""

    shard_uri: str
    table: SampleTable
    index_uri: str


def commit_shards(root: str, contents: list[bytes]) -> Data:
    """Write shards and side files below a root of any kind."""
    names = [f"{PART}/shard-{number:06d}.tar" for number in range(SHARDS)]
    places = []

    def work(workspace: Workspace) -> Outcome:
        for name in names:
            with TarShard(workspace.output / Path(name).name) as tar:
                for _ in range(SAMPLES_PER_SHARD):
                    places.append(_add(tar, len(places), contents[len(places)]))
        return Outcome(ledger=ledger)

    ledger = make_ledger(SAMPLES, SAMPLES, {})
    part = StageIdentity("shard", 1, Path(PART).name, {}, {}, root, part=True)
    commit_stage(part, work)
    identity = StageIdentity("shard", 1, "key", {}, {}, root)
    commit_stage(identity, lambda _: Outcome(ledger=ledger, parts=[part.key]))
    shard = np.repeat(np.arange(SHARDS, dtype=np.int32), SAMPLES_PER_SHARD)
    first = np.arange(SHARDS, dtype=np.int64) * SAMPLES_PER_SHARD
    table = SampleTable(names, first, shard, *np.array(places, dtype=np.int64).T)
    return Data(identity.uri, table, _commit_texts(root, names))


def _commit_texts(root: str, names: list[str]) -> str:
    """Commit the side files of source `alt`, and the index that lists them; return the index."""
    part = StageIdentity("index", 1, "texts", {}, {SHARD_PART: Path(PART).name}, root, part=True)
    rows = [{"source": "alt", "shard_part": Path(PART).name, "part": part.key, "texts": SAMPLES}]

    def texts(workspace: Workspace) -> Outcome:
        for number, name in enumerate(names):
            first = number * SAMPLES_PER_SHARD
            captions = [[caption_of(first + row)] for row in range(SAMPLES_PER_SHARD)]
            path = workspace.output / texts_name(name)
            write_texts(path, captions, source="alt", shard=name)
        return Outcome(make_ledger(SAMPLES, SAMPLES, {}))

    def listed(workspace: Workspace) -> Outcome:
        table = pa.Table.from_pylist(rows, schema=SIDE_FILES_SCHEMA)
        pq.write_table(table, workspace.output / SIDE_FILES)
        return Outcome(make_ledger(SAMPLES, SAMPLES, {}))

    commit_stage(part, texts)
    index = StageIdentity("index", 1, "key", {}, {}, root)
    commit_stage(index, listed)
    return index.uri


def caption_of(sample_id: int) -> str:
    """Return the caption of a sample: twelve words."""
    return " ".join(np.random.default_rng(sample_id).choice(_WORDS, 12))


def photographs(side_px: int = SIDE_PX) -> list[bytes]:
    """Return JPEG files: photographs of the pairs enlarged to a shorter side where they are at hand, else made ones."""
    return [_encoded(image, side_px) for image, _ in zip(_images(), range(SAMPLES), strict=False)]


def _images() -> Iterator[Image.Image]:
    number = 0
    if PHOTOS.exists():
        with zipfile.ZipFile(PHOTOS) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            for name in names[:: max(1, len(names) // SAMPLES)]:
                yield Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                number += 1
    while True:
        draw = np.random.default_rng(number)
        yield Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        number += 1


def _encoded(image: Image.Image, side_px: int) -> bytes:
    factor = side_px / min(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _add(tar: TarShard, sample_id: int, content: bytes) -> tuple[int, int, int, int]:
    caption = caption_of(sample_id)
    uid = f"{sample_id:032x}"
    record = {"uid": uid, "sample_id": sample_id, "captions": {"alt": [caption]}}
    text = json.dumps(record).encode()
    image_offset = tar.add(f"{uid}.jpg", content)
    json_offset = tar.add(f"{uid}.json", text)
    tar.add(f"{uid}.txt", caption.encode())
    return image_offset, len(content), json_offset, len(text)
