"""Reading samples without decoding: pread by the index against a webdataset iterator."""

import io
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

from bench.timing import best_of
from neuclip.foundation.randomness import permutation
from neuclip.shards.tar import TarShard

SAMPLES, SHARDS, SIDE_PX, REPEATS = 2000, 4, 256, 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        places = write_shards(Path(folder))
        shards = sorted(map(str, Path(folder).glob("*.tar")))
        files = [os.open(shard, os.O_RDONLY) for shard in shards]

        def by_offset() -> None:
            for sample in permutation(len(places), seed=0).tolist():
                shard, image, image_size, text, text_size = places[sample]
                os.pread(files[shard], image_size, image)
                json.loads(os.pread(files[shard], text_size, text))

        def by_iterator() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False):
                    json.loads(sample["json"])

        ours, theirs = best_of(REPEATS, by_offset), best_of(REPEATS, by_iterator)
        size = sum(place[2] + place[4] for place in places)
        for file in files:
            os.close(file)
    print(
        f"reading {SAMPLES} samples of {size / SAMPLES / 1024:.0f} KiB: by offset {SAMPLES / ours:.0f}/s "
        f"({size / ours / 1e9:.2f} GB/s), webdataset {SAMPLES / theirs:.0f}/s, ratio {theirs / ours:.1f}, "
        f"best of {REPEATS}"
    )


def write_shards(folder: Path) -> list[tuple[int, int, int, int, int]]:
    """Write noise as JPEG; return shard, offset and size of image and JSON of every sample."""
    places = []
    for shard in range(SHARDS):
        with TarShard(folder / f"shard-{shard:06d}.tar") as tar:
            for row in range(SAMPLES // SHARDS):
                number = shard * (SAMPLES // SHARDS) + row
                low = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(low).resize((SIDE_PX, SIDE_PX)).save(buffer, "JPEG", quality=95)
                image, text = (
                    buffer.getvalue(),
                    json.dumps({"captions": {"alt": ["x" * 60]}}).encode(),
                )
                place = tar.add(f"{number:08d}.jpg", image)
                places.append(
                    (shard, place, len(image), tar.add(f"{number:08d}.json", text), len(text))
                )
    return places
