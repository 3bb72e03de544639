"""Oracles: the pairs the shards were made of; loading in line against loading in other processes."""

import ast
import collections
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made.acquired import Pair, png, some_pairs
from made.committed import vouch_for
from made.packed import pack

from neuclip.acquired.images import decode_rgb
from neuclip.foundation.errors import IntegrityError
from neuclip.index.reader import read_samples
from neuclip.loading.batches import load_batches
from neuclip.loading.captions import Captions
from neuclip.loading.order import BatchOrder
from neuclip.loading.policies import PerSource
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.views import ImageView, TextView
from neuclip.loading.visits import MAIN, Visit


def pixels(content, draw):
    array = np.asarray(decode_rgb(content).resize((8, 8))).transpose(2, 0, 1)
    return torch.from_numpy(array // 2) + int(draw.integers(128))


def record_of(samples, sample_id):
    ((*_, record),) = samples._read([sample_id])
    return record


def tokens(texts):
    return torch.tensor([[len(text), sum(map(ord, text))] for text in texts])


def text_view(sources=None):
    return TextView(PerSource(weights=sources or {"alt": 1.0}), lambda texts, *_: tokens(texts))


def samples_of(packed, sources=None, seed=0):
    return ShardSamples(
        ShardFiles(packed.shard, cache_gb=1),
        read_samples(packed.index),
        images=[ImageView(pixels)],
        texts=[text_view(sources)],
        captions=Captions(packed.index, cache_gb=1),
        seed=seed,
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packed"), [some_pairs(80)])


def batches(packed, workers, first=0, last=6):
    table = read_samples(packed.index)
    order = BatchOrder(np.bincount(table.shard), seed=3, streams=4, global_batch=16)
    return list(
        load_batches(
            samples_of(packed),
            order,
            first=first,
            last=last,
            rank=0,
            size=1,
            workers=workers,
            pin_memory=False,
        )
    )


def digests(shard_uri, index_uri):
    """Print a digest of each batch, loaded in line, by two workers, and by one after a stop in the middle."""
    packed = SimpleNamespace(shard=shard_uri, index=index_uri)
    for loaded in (
        batches(packed, 0),
        batches(packed, 2),
        batches(packed, 0, first=0, last=3) + batches(packed, 1, first=3),
    ):
        parts = [
            torch.cat(
                [
                    *map(torch.flatten, (*b.images.values(), *b.texts.values())),
                    b.sample_ids,
                    *b.text_ids.values(),
                ]
            )
            for b in loaded
        ]
        print([hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in parts])


def test_any_number_of_workers_and_any_start_give_the_same_batches(packed):
    """In a process of its own, as in training: workers forked from one that ran a Prefect flow end with an error."""
    code = f"from loading.test_samples import digests; digests({packed.shard!r}, {packed.index!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=100,
    )
    inline, by_two, stopped = (ast.literal_eval(line) for line in said.stdout.splitlines())
    assert len(set(inline)) == 6
    assert by_two == inline
    assert stopped == inline


def test_an_image_is_that_of_its_sample(packed):
    pairs = {pair.uid: pair for pair in some_pairs(80)}
    samples = samples_of(packed)
    for sample_id in (0, 7, 33):
        pair = pairs[record_of(samples, sample_id)["uid"]]
        batch = samples.__getitems__([(0, sample_id)])
        image = decode_rgb(png(pair.number, pair.size)).resize((8, 8))
        shift = batch.images[MAIN][0].numpy() - np.asarray(image).transpose(2, 0, 1) // 2
        assert 0 <= shift.min() < 128
        assert np.ptp(shift) == 0
        assert torch.equal(batch.texts[MAIN], tokens([pair.captions["alt"][0]]))


def test_captions_are_drawn_by_weight_and_keyed_by_epoch(packed):
    samples = samples_of(packed, {"alt": 1.0, "rewrite": 3.0})
    pair = {pair.uid: pair for pair in some_pairs(80)}[record_of(samples, 5)["uid"]]
    table = read_samples(packed.index)
    shard = int(table.shard[5])
    place = (table.shards[shard], 5 - int(table.first[shard]))
    view = text_view({"alt": 1.0, "rewrite": 3.0})

    def choose(epoch):
        return view.choose(samples.captions, *place, Visit(0, epoch, 5)).text

    drawn = [choose(epoch) for epoch in range(2000)]
    counts = collections.Counter(drawn)
    alt, (one, two) = pair.captions["alt"][0], pair.captions["rewrite"]
    assert abs(counts[alt] / 2000 - 0.25) < 0.04
    assert abs(counts[one] / 2000 - 0.375) < 0.05
    assert counts[alt] + counts[one] + counts[two] == 2000
    assert drawn[7] == choose(7)


def test_a_corrupt_image_is_named_and_its_place_filled(tmp_path, caplog):
    broken = png(5, (24, 24))[:60]  # the header is there, the pixels are not
    packed = pack(tmp_path, [[*some_pairs(60), Pair(777, {"alt": ["broken one"]}, content=broken)]])
    samples = samples_of(packed)
    table = read_samples(packed.index)
    uid = Pair(777, {"alt": [""]}).uid
    bad = next((i for i in range(table.count) if record_of(samples, i)["uid"] == uid), None)
    assert bad is not None, "choose another number, this one fell into the selection split"
    other = (bad + 1) % table.count
    batch = samples.__getitems__([(0, other), (0, bad)])
    assert batch.corrupt == [bad]
    assert batch.sample_ids.tolist() == [other, other]
    assert torch.equal(batch.images[MAIN][0], batch.images[MAIN][1])
    assert uid in caplog.text
    with pytest.raises(IntegrityError, match="every image of a batch is corrupt"):
        samples.__getitems__([(0, bad)])


def test_a_shard_cut_short_or_changed_is_refused(tmp_path):
    packed = pack(tmp_path, [some_pairs(60)])
    path = next(Path(packed.shard).parent.glob("parts/*/shard-000000.tar"))
    content = path.read_bytes()
    changed = content.replace(b'"sample_id":3,', b'"sample_id":4,')
    for damaged in (content[:3000], changed):
        path.write_bytes(damaged)
        found = rf"has {len(damaged)} bytes with SHA-256 .*, expected {len(content)} bytes"
        with pytest.raises(IntegrityError, match=rf"shard-000000.tar {found}.*--only shard"):
            samples_of(packed).__getitems__([(0, 3)])


def test_an_index_of_other_shards_than_those_committed_is_refused(tmp_path):
    packed = pack(tmp_path, [some_pairs(60)])
    path = next(Path(packed.shard).parent.glob("parts/*/shard-000000.tar"))
    content = path.read_bytes()
    path.write_bytes(content[:3000])
    vouch_for(path, path.parent)
    with pytest.raises(IntegrityError, match=r"shard-000000.tar is truncated: \d+ bytes expected"):
        samples_of(packed).__getitems__([(0, 10)])
    path.write_bytes(content.replace(b'"sample_id":3,', b'"sample_id":4,'))
    vouch_for(path, path.parent)
    with pytest.raises(IntegrityError, match="holds sample 4 where the index has 3"):
        samples_of(packed).__getitems__([(0, 3)])
