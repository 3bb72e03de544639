"""Oracles: the definitions in plain Python, one sample at a time; and what a fair draw must look like."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuclip.index.draws import draw_spread, draw_stratified, draw_uniform, largest_remainders

MASK = 2**64 - 1


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def hash_of(value, seed, epoch=0):
    key = mix((seed * 0x9E3779B97F4A7C15 + epoch) & MASK)
    return mix((value * 0x9E3779B97F4A7C15 + key) & MASK)


def uniform(ids, count, seed):
    return sorted(ids, key=lambda i: hash_of(i, seed))[:count]


def stratified(ids, clusters, count, seed):
    sizes = Counter(clusters)
    exact = {cluster: count * size / len(ids) for cluster, size in sizes.items()}
    shares = {cluster: math.floor(share) for cluster, share in exact.items()}
    by_remainder = sorted(
        sizes, key=lambda cluster: (-(count * sizes[cluster] % len(ids)), cluster)
    )
    for cluster in by_remainder[: count - sum(shares.values())]:
        shares[cluster] += 1
    drawn = []
    for cluster in sorted(sizes):
        members = [i for i, own in zip(ids, clusters, strict=True) if own == cluster]
        drawn += uniform(members, shares[cluster], seed)
    return drawn


def spread(ids, features, count, seed, a_round):
    def distance(i, j):
        return sum((a - b) ** 2 for a, b in zip(features[i], features[j], strict=True))

    chosen, number = uniform(ids, 1, seed), 1
    rounds = 1
    while len(chosen) < count:
        races = {}
        for i in ids:
            if i not in chosen:
                u = ((hash_of(i, seed, rounds) >> 11) + 0.5) / 2**53
                nearest = min(distance(i, j) for j in chosen)
                races[i] = -math.log(u) / max(nearest, 1e-30)
        chosen += sorted(races, key=races.__getitem__)[: min(a_round, count - number)]
        number, rounds = len(chosen), rounds + 1
    return chosen


@st.composite
def populations(draw):
    ids = draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True))
    return ids, draw(st.integers(1, len(ids))), draw(st.integers(0, 2**63))


@given(populations())
def test_uniform_takes_the_lowest_hashes_whatever_the_order_of_the_rows(population):
    ids, count, seed = population
    expected = uniform(ids, count, seed)
    for rows in (ids, sorted(ids), ids[::-1]):
        assert draw_uniform(np.array(rows), count, seed=seed).tolist() == expected


@given(populations(), st.data())
def test_stratified_is_proportional_with_largest_remainders(population, data):
    ids, count, seed = population
    clusters = data.draw(st.lists(st.integers(-2, 5), min_size=len(ids), max_size=len(ids)))
    expected = stratified(ids, clusters, count, seed)
    found = draw_stratified(np.array(ids), np.array(clusters), count, seed=seed)
    assert found.tolist() == expected
    assert len(set(found.tolist())) == count
    turned = draw_stratified(np.array(ids[::-1]), np.array(clusters[::-1]), count, seed=seed)
    assert turned.tolist() == expected


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.data())
def test_shares_are_whole_and_never_off_by_one(sizes, data):
    total = sum(sizes)
    count = data.draw(st.integers(0, total))
    shares = largest_remainders(np.array(sizes), count).tolist()
    assert sum(shares) == count
    for share, size in zip(shares, sizes, strict=True):
        assert count * size // total <= share <= -(-count * size // total) <= size


@settings(deadline=None)
@given(populations(), st.data())
def test_spread_is_the_race_of_the_definition(population, data):
    ids, count, seed = population
    places = data.draw(
        st.lists(
            st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
            min_size=len(ids),
            max_size=len(ids),
        )
    )
    features = dict(zip(ids, places, strict=True))  # whole numbers: float32 has them exactly
    expected = spread(ids, features, count, seed, a_round=1)
    rows = np.array([features[i] for i in ids], dtype=np.float32)
    assert draw_spread(np.array(ids), rows, count, seed=seed).tolist() == expected


def test_many_are_drawn_in_rounds_without_repeats(monkeypatch):
    draw = np.random.default_rng(0)
    ids = np.arange(300)
    rows = draw.integers(-50, 50, (300, 3)).astype(np.float32)
    features = dict(enumerate(rows.tolist()))
    expected = spread(ids.tolist(), features, 140, 9, a_round=3)  # ceil(139 / 64)
    whole = draw_spread(ids, rows, 140, seed=9).tolist()
    assert whole == expected
    monkeypatch.setattr("neuclip.index.draws._MAX_PRODUCTS", 40)  # and in slices of rows
    assert draw_spread(ids, rows, 140, seed=9).tolist() == expected


def test_the_second_of_two_is_drawn_by_squared_distance():
    """Oracle: D^2 / sum of D^2, over 4,000 seeds; a standard deviation is below 0.008."""
    ids, rows = np.arange(4), np.array([[0.0], [1], [2], [4]], dtype=np.float32)
    seconds = Counter()
    for seed in range(4000):
        first, second = draw_spread(ids, rows, 2, seed=seed).tolist()
        if first == 0:
            seconds[second] += 1
    total = sum(seconds.values())
    assert total == pytest.approx(1000, abs=110)
    for number, share in ((1, 1 / 21), (2, 4 / 21), (3, 16 / 21)):
        assert seconds[number] / total == pytest.approx(share, abs=0.05)


def test_spread_finds_every_far_group_and_copies_come_last():
    draw = np.random.default_rng(1)
    centres = 100 * np.eye(8, dtype=np.float32)
    rows = centres[np.arange(400) % 8] + draw.normal(size=(400, 8)).astype(np.float32) / 10
    drawn = draw_spread(np.arange(400), rows, 8, seed=3)
    assert sorted(drawn % 8) == list(range(8))
    copies = np.repeat(centres, 5, axis=0)
    drawn = draw_spread(np.arange(40), copies, 40, seed=3)
    assert sorted(drawn[:8] // 5) == list(range(8))
    assert sorted(drawn) == list(range(40))


def test_other_seeds_draw_others_and_the_same_seed_the_same():
    ids = np.arange(1000)
    draws = [draw_uniform(ids, 100, seed=seed).tolist() for seed in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]
    assert draw_uniform(ids, 40, seed=1).tolist() == draws[0][:40]
    counts = Counter(i for seed in range(400) for i in draw_uniform(ids, 100, seed=seed).tolist())
    assert 10 < min(counts[i] for i in range(1000)) < max(counts.values()) < 80  # mean 40, sd 6
