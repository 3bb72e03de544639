"""What an encoder is tuned on. Oracle: texts whose words say which image and which kind they are of."""

import pytest
from made.acquired import some_pairs
from made.packed import gather

from neuclip.foundation.errors import DataError
from neuclip.tuning.triples import Triples, TwoKinds, read_pairs, split

PAIRS = [TwoKinds([f"s{n}"], [f"l{n} a", f"l{n} b"]) for n in range(23)]


def triples(seed=3, pairs=PAIRS):
    return Triples(pairs, seed=seed, to_long="find long: ", to_short="find short: ")


def image_of(text):
    return text.split()[0][1:]


def test_each_pair_is_a_query_once_an_epoch_and_both_kinds_come():
    found = [one for step in range(23) for one in triples().batch(step, 2)]
    for epoch in (found[:23], found[23:]):
        assert sorted(image_of(one.query) for one in epoch) == sorted(str(n) for n in range(23))
    kinds = {(one.query[0], one.positive[0], one.negative[0], one.instruction) for one in found}
    assert kinds == {("s", "l", "l", "find long: "), ("l", "s", "s", "find short: ")}
    for one in found:
        assert image_of(one.query) == image_of(one.positive) != image_of(one.negative)
    assert found[:23] != found[23:]


def test_a_triple_depends_on_seed_epoch_and_pair_alone():
    by_two = [one for step in range(12) for one in triples().batch(step, 2)][:23]
    by_three = [one for step in range(8) for one in triples().batch(step, 3)][:23]
    assert by_two == by_three
    assert by_two != [one for step in range(12) for one in triples(seed=4).batch(step, 2)][:23]


def test_what_is_measured_on_is_not_tuned_on():
    kept, held_out = split(PAIRS, held_out=100, seed=1)
    assert len(held_out) == 4  # a fifth at most
    assert sorted([*kept, *held_out]) == sorted(PAIRS)
    assert split(PAIRS, held_out=100, seed=1) == (kept, held_out)
    assert len(split(PAIRS, held_out=2, seed=1)[1]) == 2


def test_pairs_are_read_by_source_whatever_the_partitions(tmp_path):
    pairs = some_pairs(40)
    _, _, one = gather(tmp_path / "one", [pairs])
    _, _, two = gather(tmp_path / "two", [pairs[:13], pairs[13:]])
    found = read_pairs(one, short="alt", long="rewrite")
    assert found == read_pairs(two, short="alt", long="rewrite")
    assert all(pair.short and pair.long for pair in found)
    with pytest.raises(DataError, match="0 pairs have a text of both 'alt' and 'other'"):
        read_pairs(one, short="alt", long="other")
