"""Lines shifted against their captions. Oracle: where the test put the shift."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import real_pairs

from neuclip.captions.alignment import FARTHEST, Alignment, words_of
from neuclip.foundation.errors import DataError

STOP_WORDS = ["a", "the", "of", "in", "on", "with", "and"]
WORDS = [f"word{n}" for n in range(400)]


def made(seed: int, rows: int, *, kept: float) -> tuple[list[str], list[str]]:
    """Captions, and rewrites that keep each word with a chance and put in others."""
    rng = random.Random(seed)
    captions = [
        " ".join(rng.choices(WORDS, k=rng.randint(3, 9)) + rng.choices(STOP_WORDS, k=3))
        for _ in range(rows)
    ]
    rewrites = []
    for caption in captions:
        words = [word for word in caption.split() if rng.random() < kept]
        words += rng.choices(WORDS, k=rng.randint(0, 4)) + rng.choices(STOP_WORDS, k=4)
        rewrites.append(" ".join(rng.sample(words, len(words))))
    return captions, rewrites


def read(captions: list[str], lines: list[str]) -> float | None:
    alignment = Alignment("lines.txt", "table.csv")
    for caption, line in zip(captions, lines, strict=True):
        alignment.add(words_of(caption), words_of(line))
    return alignment.finish()


def first_row(captions: list[str], lines: list[str]) -> int:
    with pytest.raises(DataError, match=r"lines\.txt is shifted against table\.csv") as caught:
        read(captions, lines)
    found = re.search(r"from line (\d+) on", str(caught.value))
    assert found
    return int(found[1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(0, 400), kept=st.sampled_from([0, 0.3, 1]))
def test_lines_in_order_are_never_refused(seed, rows, kept):
    """Nor are rewrites that have nothing in common with their captions."""
    captions, lines = made(seed, rows, kept=kept)
    agreement = read(captions, lines)
    if kept and rows > 20:
        assert agreement > 0.8


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    start=st.integers(0, 300),
    by=st.integers(1, FARTHEST),
    is_missing=st.booleans(),
    ends=st.booleans(),
)
def test_shifted_lines_are_refused_with_the_row_where_it_begins(seed, start, by, is_missing, ends):
    """Lines are put in (or missing) at a row, and missing (or put in) 120 rows further down or at the end."""
    captions, lines = made(seed, 500, kept=0.5)
    more, end = ["a line of something else"] * by, start + 120 if ends else len(lines)
    if is_missing:
        shifted = lines[:start] + lines[start + by : end] + more + lines[end:]
    else:
        shifted = lines[:start] + more + lines[start : end - by] + lines[end:]
    assert abs(first_row(captions, shifted) - (start + 1)) <= 8


def test_where_captions_repeat_a_shift_is_neither_seen_nor_harmful():
    captions = ["a red ball"] * 200
    assert read(captions, ["one red ball", *captions[1:]]) is None


def test_lines_of_one_text_are_in_order_as_far_as_anybody_can_tell():
    captions, _ = made(1, 2000, kept=1)
    assert 0.3 < read(captions, [captions[7]] * 2000) < 0.7


def test_characters_of_chinese_are_words():
    rng = random.Random(0)
    captions = ["".join(chr(rng.randint(0x4E00, 0x5000)) for _ in range(8)) for _ in range(200)]
    lines = [caption[:4] for caption in captions]
    assert read(captions, lines) > 0.9
    assert first_row(captions, [*lines[1:], "末"]) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, -1])
def test_real_texts_are_refused_where_they_are_shifted_and_never_else(which):
    """Names of things beside other people's names for them, in orders from random to most alike side by side."""
    drawn = real_pairs.rows()
    orders = {
        "drawn": drawn,
        "by vendor": sorted(drawn, key=lambda row: (row["source"], row["path"])),
        "by caption": sorted(drawn, key=lambda row: row["caption"]),
    }
    for rows in orders.values():
        captions = [row["caption"] for row in rows]
        assert read(captions, [row["captions_extra"][which] for row in rows]) > 0.75
    captions = [row["caption"] for row in drawn]
    lines = [row["captions_extra"][which] for row in drawn]
    rng = random.Random(0)
    for start in rng.sample(range(len(drawn) - 300), 20):
        shifted = [
            *lines[:start],
            "a line too many",
            *lines[start : start + 299],
            *lines[start + 300 :],
        ]
        assert abs(first_row(captions, shifted) - (start + 1)) <= 3
