"""Oracles: what was planted, cosines in a plain loop, captions normalised by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from end_to_end.pairs_web import repository_pairs
from made import real_pairs
from made.committed import commit_by_hand
from made.scenes import file_of, scene
from PIL import Image

from neuclip.curate.contamination import EvaluationFolders, EvaluationSamples, normalised
from neuclip.curate.near_images import Descriptors
from neuclip.foundation.errors import NumericsError, ShapeError
from neuclip.scoring.phash import describe


def described(contents):
    found = [describe(content) for content in contents]
    hashes, pictures = zip(*found, strict=True)
    return Descriptors(np.stack(hashes), np.stack(pictures))


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def folders(tmp_path):
    """Two sets of three samples: scenes 0 to 2 with captions, scenes 10 to 12 without."""
    made = []
    for name, first, captions in (
        ("flickr", 0, [["A red ball."], ["two dogs", "Dogs\u00a0run, fast!"], []]),
        ("shapes", 10, [[], [], []]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"sample": f"s{n}", "captions": texts} for n, texts in enumerate(captions)]
        schema = pa.schema({"sample": pa.string(), "captions": pa.list_(pa.string())})
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "samples.parquet")
        found = described([file_of(scene(first + n)) for n in range(3)])
        np.save(folder / "hashes.npy", found.hashes)
        np.save(folder / "pictures.npy", found.pictures)
        features = unit(np.random.default_rng(first).normal(size=(3, 8)))
        np.save(folder / "image_features.npy", features.astype(np.float16))
        commit_by_hand(folder, "score")
        uri = str(folder)
        made.append(EvaluationFolders(name, uri, {"phash": uri, "clip": uri}))
    return made


def test_copies_of_evaluation_images_are_found_and_others_are_not(tmp_path, folders):
    resized = scene(1).resize((150, 130), Image.Resampling.BICUBIC)
    contents = [
        file_of(scene(20)),
        file_of(scene(1), "JPEG", quality=75),
        file_of(scene(21)),
        file_of(resized, "WEBP", quality=80),
        file_of(scene(12)),
    ]
    pool = described(contents)
    lost = np.zeros((1, 5), np.uint64), np.zeros((1, 1536), np.uint8)
    pool = Descriptors(
        np.concatenate([pool.hashes, lost[0]]), np.concatenate([pool.pictures, lost[1]])
    )
    samples = EvaluationSamples(folders, phash="phash")
    rows = samples.matches(descriptors=pool, scratch=tmp_path).to_pylist()
    assert [(row["row"], row["set"], row["sample"]) for row in rows] == [
        (1, "flickr", "s1"),
        (3, "flickr", "s1"),
        (4, "shapes", "s2"),
    ]
    assert {row["by"] for row in rows} == {"phash"}
    assert rows[2]["distance"] == 0 < rows[0]["distance"] <= 1.5


def test_features_match_the_nearest_sample_above_the_cosine(tmp_path, folders):
    every = np.concatenate(
        [np.load(f"{folder.samples}/image_features.npy") for folder in folders]
    ).astype(np.float32)
    random = np.random.default_rng(5)
    pool = unit(
        np.concatenate([every + random.normal(size=(6, 8)) * 0.2, random.normal(size=(2000, 8))])
    )
    pool[7] = 0
    samples = EvaluationSamples(folders, embedding="clip")
    found = samples.matches(features=pool, min_cosine=0.9, scratch=tmp_path).to_pylist()
    expected = []
    names = [("flickr", f"s{n}") for n in range(3)] + [("shapes", f"s{n}") for n in range(3)]
    for row, feature in enumerate(pool):
        cosines = [float(feature @ other) for other in every]
        best = max(range(6), key=cosines.__getitem__)
        if cosines[best] >= 0.9:
            expected.append((row, *names[best], pytest.approx(1 - cosines[best], abs=1e-5)))
    assert 3 < len(expected) < 500
    assert [(r["row"], r["set"], r["sample"], r["distance"]) for r in found] == expected
    assert {row["by"] for row in found} == {"embedding"}


def test_a_feature_of_another_width_or_not_finite_is_refused(tmp_path, folders):
    samples = EvaluationSamples(folders, embedding="clip")
    with pytest.raises(ShapeError, match=r"\[4, 9\].* width of 8"):
        samples.matches(features=np.zeros((4, 9), np.float16), scratch=tmp_path)
    with pytest.raises(NumericsError, match="not finite"):
        samples.matches(features=np.full((4, 8), np.nan, np.float16), scratch=tmp_path)


def test_captions_match_but_for_case_punctuation_and_space(tmp_path, folders):
    pool = [
        "a RED   ball",
        None,
        "",
        "  ...",
        "dogs run fast",
        "two dogs and a cat",
        "\uff34wo d\u00adogs",
    ]
    samples = EvaluationSamples(folders, captions=True)
    rows = samples.matches(captions=pool, scratch=tmp_path).to_pylist()
    assert [(row["row"], row["sample"], row["by"], row["distance"]) for row in rows] == [
        (0, "s0", "caption", 0),
        (4, "s1", "caption", 0),
        (6, "s1", "caption", 0),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u96ea\u3000\u96ea", "\u96ea \u96ea"),
        ("a\u200bb", "ab"),
        ("\u201cHi\u201d\u2014there", "hi there"),
    ],
)
def test_normalised_alike(one, other):
    assert normalised(one) == normalised(other) != ""


def test_normalised_keeps_what_differs():
    assert normalised("\U0001f600") != normalised("\U0001f603")
    assert normalised("e\u0301") != normalised("e")
    assert normalised("?!") == ""


def test_nothing_to_match_gives_an_empty_table(tmp_path, folders):
    samples = EvaluationSamples(folders[:0], phash="phash", captions=True)
    pool = described([file_of(scene(0))])
    table = samples.matches(descriptors=pool, captions=["x"], scratch=tmp_path)
    assert table.num_rows == 0
    assert table.column_names == ["row", "set", "sample", "by", "distance"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not repository_pairs().is_dir(), reason="the pairs are not here")
def test_every_real_evaluation_image_is_found_and_no_clean_one(tmp_path):
    """1,148 emoji as the evaluation set; a copy of each among 5,000 pictures of other classes."""
    rows = real_pairs.rows()
    evaluation = [row for row in rows if row["test_kind"] == "unseen_concept"]
    classes = {row["label"] for row in evaluation}
    clean = [row for row in rows if row["label"] not in classes][:5000]
    assert (len(evaluation), len(clean)) == (1148, 5000)
    samples = described([real_pairs.image_file(row) for row in evaluation])
    np.save(tmp_path / "hashes.npy", samples.hashes)
    np.save(tmp_path / "pictures.npy", samples.pictures)
    table = pa.table({"sample": [row["uid"] for row in evaluation], "captions": [[]] * 1148})
    pq.write_table(table, tmp_path / "samples.parquet")
    commit_by_hand(tmp_path, "score")
    folder = EvaluationFolders("emoji", str(tmp_path), {"phash": str(tmp_path)})
    kinds = [kind for kind in real_pairs.COPIES if kind != "cropped"]
    planted = [
        real_pairs.copy_of(row, kinds[number % len(kinds)]) for number, row in enumerate(evaluation)
    ]
    pool = described([real_pairs.image_file(row) for row in clean] + planted)
    found = EvaluationSamples([folder], phash="phash").matches(descriptors=pool, scratch=tmp_path)
    assert found["row"].to_pylist() == list(range(5000, 6148))
    right = [
        sample == row["uid"]
        for sample, row in zip(found["sample"].to_pylist(), evaluation, strict=True)
    ]
    print("the very sample is named for", sum(right), "of", len(right))
    assert sum(right) > 0.97 * len(right)
