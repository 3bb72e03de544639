"""Edits of texts. Oracles: multisets of words, the list of synonyms, closed-form rates."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuclip.loading.edits.eda import SYNONYMS, delete, eda, swap, synonym, synonyms
from neuclip.loading.visits import Visit

EDITS = (synonym, swap, delete)
WORDS = st.lists(
    st.one_of(st.sampled_from(sorted(synonyms())), st.text(min_size=1, max_size=8)), max_size=9
)
TEXTS = st.one_of(st.text(max_size=60), WORDS.map(" ".join))
SEEDS = st.integers(0, 2**32 - 1)


def random(seed):
    return np.random.default_rng(seed)


@given(TEXTS, SEEDS)
def test_the_same_key_gives_the_same_text(text, seed):
    visit = Visit(seed, 3, 77)
    assert eda(text, visit.draws("eda", "second")) == eda(text, visit.draws("eda", "second"))


@given(TEXTS.filter(lambda text: len(text.split()) < 2), SEEDS)
def test_a_text_of_fewer_than_two_words_stays_as_it_is(text, seed):
    for edit in (*EDITS, eda):
        assert edit(text, random(seed)) == text


@given(TEXTS, SEEDS)
def test_a_swap_keeps_the_multiset_of_words(text, seed):
    before, after = text.split(), swap(text, random(seed)).split()
    assert Counter(after) == Counter(before)
    if len(set(before)) == len(before) > 1:
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 2


@given(TEXTS.filter(lambda text: text.split()), SEEDS)
def test_a_deletion_leaves_words_in_their_order_and_one_at_least(text, seed):
    before, after = text.split(), delete(text, random(seed)).split()
    assert after
    left = iter(before)
    assert all(word in left for word in after)


def test_a_deletion_never_empties_even_the_shortest_text():
    """A text of two words loses both with a chance of 0.01: among 20,000 draws it happens."""
    draws = random(1)
    lengths = Counter(len(delete("red boat", draws).split()) for _ in range(20_000))
    assert lengths.keys() == {1, 2}
    assert lengths[2] / 20_000 == pytest.approx(0.81, abs=0.01)


@given(TEXTS, SEEDS)
def test_a_synonym_replaces_one_word_by_one_of_the_list(text, seed):
    before, after = text.split(), synonym(text, random(seed)).split()
    assert len(after) == len(before)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) <= 1
    for old, new in changed:
        assert any(_fits(word, old, new) for word in synonyms() if word in old.lower())
    if len(before) > 1 and any(word in synonyms() for word in before):
        assert changed


def _fits(word, old, new):
    """The new word is the old one with a known word replaced, signs and first letter's case as they were."""
    place = old.lower().find(word)
    head, tail = old[:place], old[place + len(word) :]
    others = {other.capitalize() if old[place].isupper() else other for other in synonyms()[word]}
    return new in {f"{head}{other}{tail}" for other in others}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a photo here", {"a photograph here"}),
        ("Photo, taken here", {"Photograph, taken here"}),
        ('the ("car") here', {f'the ("{word}") here' for word in synonyms()["car"]}),
        ("dogs of Königsberg", {"dogs of Königsberg"}),
    ],
)
def test_synonyms_by_hand(text, expected):
    assert {synonym(text, random(seed)) for seed in range(60)} == expected


def test_each_edit_is_drawn_alike():
    """Swaps keep the words, deletions shorten, synonyms do neither; a deletion leaves 10 words whole at 0.9^10."""
    text, counts = "big one two three four five six seven eight nine", Counter()
    for seed in range(6000):
        words = eda(text, random(seed)).split()
        kind = (
            "delete"
            if len(words) < 10
            else "swap"
            if sorted(words) == sorted(text.split())
            else "synonym"
        )
        kind = "none" if " ".join(words) == text else kind
        counts[kind] += 1
    whole = 0.9**10
    assert counts["synonym"] / 6000 == pytest.approx(1 / 3, abs=0.02)
    assert counts["swap"] / 6000 == pytest.approx(1 / 3, abs=0.02)
    assert counts["delete"] / 6000 == pytest.approx((1 - whole) / 3, abs=0.02)
    assert counts["none"] / 6000 == pytest.approx(whole / 3, abs=0.02)


def test_the_list_is_small_plain_and_comes_with_its_licence():
    assert SYNONYMS.stat().st_size < 300_000
    known = synonyms()
    assert len(known) > 1000
    assert list(known) == sorted(known)
    for word, others in known.items():
        assert others
        assert word not in others
        assert all(one.isascii() and one.isalpha() and one.islower() for one in (word, *others))
    licence = Path(SYNONYMS).with_suffix(".LICENSE").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in licence
    assert "the same appear on ALL copies" in licence
