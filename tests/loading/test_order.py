"""Oracle: the promises themselves, checked by counting over whole epochs."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuclip.foundation.errors import ConfigError
from neuclip.loading.order import BatchOrder


def make(sizes, *, streams=4, per_stream=2, seed=0):
    return BatchOrder(
        np.array(sizes, dtype=np.int64),
        seed=seed,
        streams=streams,
        global_batch=streams * per_stream,
    )


shard_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=8).filter(lambda s: sum(s) >= 24)


@settings(max_examples=40, deadline=None)
@given(sizes=shard_sizes, streams=st.sampled_from([1, 2, 4, 8]), per_stream=st.integers(1, 3))
def test_every_epoch_visits_every_sample_exactly_once(sizes, streams, per_stream):
    order = make(sizes, streams=streams, per_stream=per_stream)
    epochs = 3
    steps = -(-epochs * sum(sizes) // (streams * per_stream)) + 2
    seen = Counter(pair for step in range(steps) for pair in order.batch(step))
    for epoch in range(epochs):
        visits = {s: n for (e, s), n in seen.items() if e == epoch}
        assert visits == dict.fromkeys(range(sum(sizes)), 1)


@settings(max_examples=20, deadline=None)
@given(sizes=shard_sizes, step=st.integers(0, 50))
def test_ranks_joined_are_the_global_batch(sizes, step):
    whole = make(sizes, streams=8, per_stream=3).batch(step)
    for size in (2, 4, 8):
        parts = [
            make(sizes, streams=8, per_stream=3).batch(step, rank=r, size=size) for r in range(size)
        ]
        assert [len(part) for part in parts] == [24 // size] * size
        assert [pair for part in parts for pair in part] == whole


def test_the_order_depends_on_seed_and_epoch_only():
    sizes = [10, 10, 10, 10]
    first = [make(sizes).batch(step) for step in range(5)]
    assert first == [make(sizes).batch(step) for step in range(5)]
    assert first != [make(sizes, seed=1).batch(step) for step in range(5)]
    backwards = make(sizes)
    assert first == [backwards.batch(step) for step in reversed(range(5))][::-1]


def test_a_stream_reads_whole_shards():
    order = make([10] * 8, streams=2, per_stream=5)
    shards = [[s // 10 for _, s in order.batch(step)[:5]] for step in range(8)]
    flat = [shard for step in shards for shard in step]
    changes = sum(a != b for a, b in pairwise(flat))
    assert changes == 3


@pytest.mark.parametrize(
    ("sizes", "streams", "batch", "message"),
    [
        ([10], 4, 6, "6 is not a multiple of train.streams 4"),
        ([10], 4, 12, "12 is more than the 10 training samples"),
    ],
)
def test_impossible_batches_are_refused(sizes, streams, batch, message):
    with pytest.raises(ConfigError, match=message):
        BatchOrder(np.array(sizes), seed=0, streams=streams, global_batch=batch)


def test_ranks_must_divide_the_streams():
    with pytest.raises(ConfigError, match="streams 4 cannot be shared out to 3 ranks"):
        make([30]).batch(0, rank=0, size=3)


def test_fewer_shards_than_streams_is_no_matter():
    """Streams are runs of the sequence of samples, so several may lie in one shard."""
    order = make([41], streams=8, per_stream=2)
    visits = Counter(pair for step in range(3) for pair in order.batch(step))
    assert sorted(sample for epoch, sample in visits if epoch == 0) == list(range(41))
    assert max(visits.values()) == 1
    assert order.shards_ahead(0) == [0]
