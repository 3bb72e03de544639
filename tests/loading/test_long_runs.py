"""Oracles: counting; the resident memory that the kernel reports."""

import json
import logging
import mmap
import multiprocessing
import shutil
from functools import partial

import numpy as np
import psutil
import pytest
import torch
from loading.test_images import encoded
from made.shards import MadeShards, make_shards
from PIL import Image
from training.runs import ARCHITECTURE

from neuclip.loading.batches import load_batches
from neuclip.loading.captions import Captions
from neuclip.loading.order import BatchOrder
from neuclip.loading.policies import PerSource
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.views import ImageView, TextView
from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers
from neuclip.towers.transforms import training_pixels

STREAMS, RANKS = 4, 2


def jpeg(number, low, high):
    draw = np.random.default_rng(number)
    width, height = draw.integers(low, high, 2)
    return encoded(
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)),
        "JPEG",
        quality=60,
    )


def lengths(texts):
    return torch.tensor([[len(text)] for text in texts])


def samples_of(shards: MadeShards, *, to_pixels, tokenize):
    return ShardSamples(
        ShardFiles(shards.uri, cache_gb=1),
        shards.table,
        images=[ImageView(to_pixels)],
        texts=[TextView(PerSource(), lambda texts, *_: tokenize(texts))],
        captions=Captions(shards.index, cache_gb=1),
        seed=1,
    )


def order_of(shards: MadeShards, global_batch: int):
    sizes = np.bincount(shards.table.shard)
    return BatchOrder(sizes, seed=2, streams=STREAMS, global_batch=global_batch)


class TestWholeEpoch:
    COUNT, SHARDS, BATCH = 100_000, 20, 2_000
    CORRUPT = (7, 23_456, 99_999)

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_a_hundred_thousand_samples_with_three_corrupt_ones(self, tmp_path):
        """Two ranks share four streams; every sample but the three is visited once, or once more as a stand-in."""
        contents = [jpeg(number, 4, 9) for number in range(64)]

        def image_of(sample_id):
            content = contents[sample_id % len(contents)]
            return content[:-20] if sample_id in self.CORRUPT else content

        shards = make_shards(tmp_path, [self.COUNT // self.SHARDS] * self.SHARDS, image_of)
        context = multiprocessing.get_context("spawn")
        ranks = [
            context.Process(target=_visit, args=(shards, rank, self.BATCH, tmp_path / f"{rank}"))
            for rank in range(RANKS)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        visits = [np.load(tmp_path / f"{rank}.npy") for rank in range(RANKS)]
        told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(RANKS)]
        shutil.rmtree(shards.uri)
        total = sum(visits)
        assert [rank.exitcode for rank in ranks] == [0] * RANKS
        assert [int(visited.sum()) for visited in visits] == [self.COUNT // RANKS] * RANKS
        assert np.flatnonzero(total == 0).tolist() == list(self.CORRUPT)
        assert np.count_nonzero(total) == self.COUNT - 3
        assert np.count_nonzero(total == 2) == 3
        assert total.max() == 2
        assert sorted(told[0]["corrupt"] + told[1]["corrupt"]) == list(self.CORRUPT)
        lines = "\n".join(told[0]["log"] + told[1]["log"])
        for sample_id in self.CORRUPT:
            assert f"sample {sample_id} ({sample_id:032x}) is corrupt" in lines


def _visit(shards, rank, batch, path):
    """Be one rank for an epoch; leave how often it visited each sample, and what it said."""
    torch.set_num_threads(1)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("neuclip").addHandler(handler)
    to_pixels = partial(training_pixels, image_px=4)
    samples = samples_of(shards, to_pixels=to_pixels, tokenize=lengths)
    visited, corrupt = np.zeros(shards.table.count, dtype=np.int64), []
    for loaded in load_batches(
        samples,
        order_of(shards, batch),
        first=0,
        last=shards.table.count // batch,
        rank=rank,
        size=RANKS,
        workers=0,
        pin_memory=False,
    ):
        np.add.at(visited, loaded.sample_ids.numpy(), 1)
        corrupt += loaded.corrupt
    np.save(path.with_suffix(".npy"), visited)
    path.with_suffix(".json").write_text(json.dumps({"corrupt": corrupt, "log": lines}))


class TestMemory:
    BATCH = 500

    def slopes(self, samples, shards, *, steps, warm_up):
        """Return the growth of a worker in MB per 10,000 samples, by least squares after the warm-up.

        Of what is resident at most while a shard of each stream is mapped, page after page, and of what is resident
        without these pages, which are the kernel's to take back.
        """
        settings = {"rank": 0, "size": 1, "workers": 1, "pin_memory": False}
        batches = load_batches(
            samples, order_of(shards, self.BATCH), first=0, last=steps, **settings
        )
        before, worker, points = set(psutil.Process().children()), None, []
        for step, _ in enumerate(batches):
            worker = worker or next(
                child
                for child in psutil.Process().children()
                if child not in before and child.name() == "pt_data_worker"
            )
            if step < steps - 10:  # later it may have ended
                memory = worker.memory_info()
                points.append((step * self.BATCH / 10_000, memory.rss / 1e6, memory.shared / 1e6))
        samples_seen, resident, mapped = np.array(points[warm_up:]).T
        period = STREAMS * int(np.bincount(shards.table.shard).max()) // self.BATCH
        ends = range(period, len(resident) + 1, period)
        peaks = [resident[end - period : end].max() for end in ends]
        return (
            np.polyfit([samples_seen[end - 1] for end in ends], peaks, 1)[0],
            np.polyfit(samples_seen, resident - mapped, 1)[0],
        )

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_a_worker_does_not_grow(self, tmp_path):
        """200,000 samples, each with words that no other caption has, in images of many sizes."""
        contents = [jpeg(number, 40, 160) for number in range(200)]
        shards = make_shards(
            tmp_path,
            [5_000] * 40,
            lambda sample_id: contents[sample_id % len(contents)],
            caption_of=lambda sample_id: f"{_word(sample_id)} by {_word(sample_id + 10**6)}",
        )
        tokenize = create_towers(ModelConfig(architecture=ARCHITECTURE), seed=0).tokenize
        to_pixels = partial(training_pixels, image_px=64)
        samples = samples_of(shards, to_pixels=to_pixels, tokenize=tokenize)
        resident, own = self.slopes(samples, shards, steps=400, warm_up=120)
        shutil.rmtree(shards.uri)
        print(f"{resident:.3f} MB per 10,000 samples, {own:.3f} without mapped shards")
        assert resident < 1
        assert own < 1

    @pytest.mark.slow
    def test_a_leak_would_be_seen(self, tmp_path):
        content, kept = jpeg(0, 8, 9), []
        shards = make_shards(tmp_path, [5_000] * 4, lambda sample_id: content)

        def leaking(content, draw):
            # Pages of its own: what the tests before have left free in the heap would swallow a small leak.
            kept.append(mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            kept[-1][0] = 1
            return training_pixels(content, draw, image_px=8)

        samples = samples_of(shards, to_pixels=leaking, tokenize=lengths)
        _, own = self.slopes(samples, shards, steps=130, warm_up=20)
        assert own > 5


def _word(number: int) -> str:
    """Spell a number in letters: a word of its own for each."""
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:07d}")
