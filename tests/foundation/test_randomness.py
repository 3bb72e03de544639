"""Oracles: splitmix64 in plain Python integers, counting, and independence of the order of asking."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neuclip.foundation.randomness import generator, keyed_hash, permutation

MASK = (1 << 64) - 1
GOLDEN_PERMUTATION = [0, 3, 5, 7, 6, 2, 1, 4]
GOLDEN_DRAWS = [94, 737, 192, 802]


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@given(value=st.integers(0, MASK), seed=st.integers(0, MASK), epoch=st.integers(0, 2**32))
def test_the_hash_is_splitmix64_under_a_key(value, seed, epoch):
    golden = 0x9E3779B97F4A7C15
    key = mix((seed * golden + epoch) & MASK)
    expected = mix((value * golden + key) & MASK)
    assert int(keyed_hash([value], seed=seed, epoch=epoch)[0]) == expected


@given(count=st.integers(0, 200), first=st.integers(0, 10**9), seed=st.integers(0, 99))
def test_a_permutation_has_every_member_once(count, first, seed):
    drawn = permutation(count, seed=seed, first=first)
    assert sorted(drawn.tolist()) == list(range(first, first + count))


def test_a_permutation_is_even():
    places = np.array([permutation(10, seed=s).tolist().index(0) for s in range(3000)])
    counts = np.bincount(places, minlength=10)
    assert np.abs(counts - 300).max() < 90


def test_generators_differ_in_every_part_of_the_key():
    keys = [(s, e, i, v) for s in (0, 1) for e in (0, 1) for i in (0, 1) for v in (0, 1)]
    draws = {generator(s, epoch=e, sample_id=i, view=v).random() for s, e, i, v in keys}
    assert len(draws) == len(keys)
    assert (
        generator(1, epoch=2, sample_id=3).random() == generator(1, epoch=2, sample_id=3).random()
    )


def test_the_values_stay_what_they_are():
    """Golden: a change here would reorder every data set ever made."""
    assert permutation(8, seed=0).tolist() == GOLDEN_PERMUTATION
    assert generator(0, epoch=1, sample_id=2, view=3).integers(0, 1000, 4).tolist() == GOLDEN_DRAWS
