"""Oracles: every pair of hashes in numpy, a plain loop over pairs, and copies that were planted."""

import numpy as np
import pytest
from end_to_end.pairs_web import repository_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from made import real_pairs
from made.committed import commit_by_hand, vouch_for
from made.scenes import file_of, scene
from PIL import Image, ImageDraw

from neuclip.acquired.images import decode_rgb
from neuclip.curate import near_images
from neuclip.curate.hash_join import RADIUS, HashedImages, near_hashes
from neuclip.curate.near_images import (
    Descriptors,
    look_alikes,
    near_duplicates,
    read_descriptors,
)
from neuclip.curate.pictures import picture_distance
from neuclip.foundation.errors import ShapeError
from neuclip.scoring.phash import describe
from neuclip.storage.tables import connect


def described(contents):
    hashes, pictures = zip(*(describe(content) for content in contents), strict=True)
    return Descriptors(np.stack(hashes), np.stack(pictures))


def distance(a, b):
    pair = described([a, b])
    return float(picture_distance(pair.pictures[:1], pair.pictures[1:])[0])


def pairs_of(connection, left, right, **options):
    sides = [HashedImages(ids, hashes[:, None]) for ids, hashes in (left, right)]
    found = [np.stack(chunk, axis=1) for chunk in near_hashes(connection, *sides, **options)]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


@pytest.mark.parametrize("agreeing", [1, 2, 3, 4])
def test_the_join_finds_every_pair_within_the_radius_once(tmp_path, monkeypatch, agreeing):
    """Oracle: all pairs in numpy, on hashes of which many differ in a few bits."""
    monkeypatch.setattr(
        "neuclip.curate.hash_join._best_bands", lambda *_: (RADIUS + agreeing, agreeing)
    )
    random = np.random.default_rng(agreeing)
    seeds = random.integers(0, 2**64, 40, dtype=np.uint64)
    hashes = np.repeat(seeds, 10)
    for number in range(len(hashes)):
        for bit in random.choice(64, number % 10 // 2, replace=False).tolist():
            hashes[number] ^= np.uint64(1) << np.uint64(bit)
    ids = np.arange(len(hashes))
    with connect(tmp_path) as connection:
        found = pairs_of(connection, (ids[::2], hashes[::2]), (ids, hashes))
    differing = np.bitwise_count(hashes[::2, None] ^ hashes[None])
    expected = [(2 * i, j) for i, j in np.argwhere(differing <= RADIUS).tolist()]
    assert len(expected) > 1000
    assert sorted(map(tuple, found.tolist())) == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 63), max_size=8), min_size=1, max_size=30), st.randoms())
def test_the_join_equals_brute_force_on_any_hashes(tmp_path_factory, flips, random):
    base = random.getrandbits(64)
    hashes = np.array(
        [base ^ sum(1 << bit for bit in set(bits)) for bits in flips], dtype=np.uint64
    )
    ids = np.arange(len(hashes))
    with connect(tmp_path_factory.mktemp("join")) as connection:
        found = pairs_of(connection, (ids, hashes), (ids, hashes))
        ordered = pairs_of(connection, (ids, hashes), (ids, hashes), is_ordered=True)
    differing = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.argwhere(differing <= RADIUS).tolist()
    assert sorted(found.tolist()) == expected
    assert sorted(ordered.tolist()) == [[i, j] for i, j in expected if i < j]


COPIES = {
    "jpeg": lambda image: file_of(image, "JPEG", quality=75),
    "webp": lambda image: file_of(image, "WEBP", quality=80),
    "half": lambda image: file_of(image.resize((96, 80), Image.Resampling.BICUBIC)),
    "larger": lambda image: file_of(image.resize((288, 240), Image.Resampling.BICUBIC)),
    "cropped": lambda image: file_of(image.crop((4, 0, 192, 157))),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_the_same_picture_and_its_flip_is_not(kind):
    for seed in range(10):
        image = scene(seed, size=(192, 160))
        copy = COPIES[kind](image)
        assert distance(file_of(image), copy) <= 1
        flip = decode_rgb(copy).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert distance(file_of(image), file_of(flip)) > 1


def test_a_small_change_is_another_picture():
    """A mouth that smiles or not, a hand in another skin tone: what a hash alone cannot see."""

    def face(mouth, tone):
        image = Image.new("RGB", (144, 144), "white")
        draw = ImageDraw.Draw(image)
        draw.ellipse((10, 10, 134, 134), fill=(255, 220, 90))
        draw.ellipse((40, 45, 52, 60), fill="black")
        draw.ellipse((92, 45, 104, 60), fill="black")
        draw.arc((45, 70, 99, 110), *mouth, fill="black", width=5)
        draw.ellipse((100, 100, 140, 140), fill=tone)
        return file_of(image)

    smile, frown = (20, 160), (200, 340)
    light, medium = (224, 187, 149), (191, 143, 104)
    assert distance(face(smile, light), face(smile, light)) == 0
    assert distance(face(smile, light), face(frown, light)) > 1
    assert distance(face(smile, light), face(smile, medium)) > 1


def expected_keepers(descriptors):
    """The definition as loops over all pairs."""
    near = np.zeros((len(descriptors),) * 2, dtype=bool)
    for i in range(len(descriptors)):
        for j in range(i):
            bits = min(
                min(bin(int(descriptors.hashes[a, 0]) ^ int(h)).count("1") for h in descriptors.hashes[b])
                for a, b in ((i, j), (j, i))
            )  # fmt: skip
            first, second = (descriptors.pictures[[n]] for n in (j, i))
            near[i, j] = bits <= RADIUS and picture_distance(first, second)[0] <= 1
    keeper = list(range(len(descriptors)))
    for i in range(len(descriptors)):
        if descriptors.hashes[i].any():
            kept = [j for j in range(i) if near[i, j] and keeper[j] == j]
            keeper[i] = kept[0] if kept else i
    return keeper


@pytest.fixture(scope="module")
def family():
    """Ten scenes with copies of copies, in a fixed random order; one image is missing."""
    contents = []
    for seed in range(10):
        image = scene(seed, size=(192, 160))
        contents.append(file_of(image))
        contents += [make(image) for make in list(COPIES.values())[seed % 4 :]]
        drift = image.crop((4, 3, 192, 160))
        contents += [file_of(drift), file_of(drift.crop((0, 0, 184, 154)), "JPEG", quality=75)]
    found = described(contents)
    order = np.random.default_rng(3).permutation(len(contents))
    hashes = found.hashes[order]
    hashes[5] = 0
    return Descriptors(hashes, np.asarray(found.pictures)[order])


@pytest.mark.parametrize("most_pairs", [2_000_000, 3, 0])
def test_keepers_are_those_of_the_definition_whatever_the_blocks(
    tmp_path, family, monkeypatch, most_pairs
):
    monkeypatch.setattr(near_images, "_MOST_PAIRS_IN_BLOCK", most_pairs)
    keeper = near_duplicates(family, scratch=tmp_path)
    assert keeper.tolist() == expected_keepers(family)
    assert keeper.dtype == np.int64
    assert keeper[5] == 5
    assert (keeper != np.arange(len(keeper))).sum() > 20


def test_thousands_of_copies_of_one_image_are_compared_with_one(tmp_path, monkeypatch):
    """A placeholder that fills half of a pool: the pairs compared grow with its copies, not with their square."""
    placeholder, other = (
        described([file_of(Image.new("RGB", (64, 64), "white"))]),
        described([file_of(scene(number)) for number in range(5)]),
    )
    copies = 6000
    hashes = np.concatenate([placeholder.hashes.repeat(copies, axis=0), other.hashes])
    pictures = np.concatenate([placeholder.pictures.repeat(copies, axis=0), other.pictures])
    compared = []
    distances = near_images.picture_distance
    monkeypatch.setattr(
        near_images, "picture_distance", lambda a, b: compared.append(len(a)) or distances(a, b)
    )
    monkeypatch.setattr(near_images, "_MOST_PAIRS_IN_BLOCK", 20_000)
    keeper = near_duplicates(Descriptors(hashes, pictures), scratch=tmp_path)
    assert not keeper[:copies].any()
    assert keeper[copies:].tolist() == list(range(copies, copies + 5))
    assert sum(compared) < 20 * copies


def test_no_image_and_one_image(tmp_path):
    assert (
        near_duplicates(
            Descriptors(np.empty((0, 5), np.uint64), np.empty((0, 1536), np.uint8)),
            scratch=tmp_path,
        ).tolist()
        == []
    )
    assert near_duplicates(described([file_of(scene(1))]), scratch=tmp_path).tolist() == [0]


def test_descriptors_are_read_from_several_folders_in_any_order(tmp_path):
    found = described([file_of(scene(number)) for number in range(6)])
    for part in (0, 1):
        (tmp_path / str(part)).mkdir()
        rows = slice(3 * part, 3 * part + 3)
        np.save(tmp_path / str(part) / "hashes.npy", found.hashes[rows])
        np.save(tmp_path / str(part) / "pictures.npy", found.pictures[rows])
        commit_by_hand(tmp_path / str(part), "score")
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    order = np.array([4, 0, 5, 2])
    read = read_descriptors(folders, order // 3, order % 3)
    assert (read.hashes == found.hashes[order]).all()
    assert (read.pictures[np.array([3, 0, 0])] == found.pictures[order[[3, 0, 0]]]).all()
    with connect(tmp_path) as connection:
        same = [c[:2] for c in look_alikes(connection, read, found)]
    assert {(int(i), int(j)) for a, b in same for i, j in zip(a, b, strict=True)} == set(
        enumerate(order.tolist())
    )
    np.save(tmp_path / "1" / "hashes.npy", found.hashes[:, :4])
    vouch_for(tmp_path / "1" / "hashes.npy", tmp_path / "1")
    with pytest.raises(ShapeError, match=r"uint64 \[6, 4\], expected uint64 \[rows, 5\]"):
        read_descriptors(folders, order // 3, order % 3)


needs_pairs = pytest.mark.skipif(not repository_pairs().is_dir(), reason="the pairs are not here")


@needs_pairs
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_planted_copies_of_real_pictures_are_found(tmp_path):
    """Every kind of copy of 250 originals of each source, among 1,000 originals of each.

    Two originals are the same if all their pixels are: everything else that is found counts as wrong, although
    many of them differ in nothing that can be seen.
    """
    rows = real_pairs.rows(1000)
    originals = [real_pairs.image_file(row) for row in rows]
    pixels = [decode_rgb(content) for content in originals]
    classes: dict[object, int] = {}
    of_original = [classes.setdefault((p.size, p.tobytes()), n) for n, p in enumerate(pixels)]
    planted = [n for n, row in enumerate(rows) if n % 4 == 0]
    kinds = list(real_pairs.COPIES)
    copies = [real_pairs.copy_of(rows[n], kind) for kind in kinds for n in planted]
    truth = np.array(of_original + [of_original[n] for _ in kinds for n in planted])
    keeper = near_duplicates(described(originals + copies), scratch=tmp_path)
    found = keeper != np.arange(len(keeper))
    right = found & (truth == truth[keeper])
    recall = {
        kind: right[len(rows) + number * len(planted) :][: len(planted)].mean()
        for number, kind in enumerate(kinds)
    }
    precision = right.sum() / found.sum()
    print({kind: round(float(share), 4) for kind, share in recall.items()}, precision)
    assert {row["source"] for row in rows} == set(real_pairs.SOURCES)
    assert len(planted) >= 1000
    assert min(recall.values()) >= 0.95
    assert precision >= 0.99


@needs_pairs
@pytest.mark.slow
def test_flips_of_real_photographs_are_other_pictures(tmp_path):
    """Of photographs, because many an emoji is its own mirror image."""
    rows = [row for row in real_pairs.rows(300) if row["source"] == "grocery-store"]
    contents = [real_pairs.image_file(row) for row in rows] + [real_pairs.flipped(r) for r in rows]
    keeper = near_duplicates(described(contents), scratch=tmp_path)
    assert (keeper[len(rows) :] == np.arange(len(rows), 2 * len(rows))).all()
