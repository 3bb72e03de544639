"""Oracle: the scorers' own values for the same files as pairs; the files of the set."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired
from towers.tiny import picture, write_tar

from neuclip.curate.scores import ClipScore, Embedding, Language, PHash
from neuclip.foundation.errors import ConfigError, DataError, IntegrityError
from neuclip.foundation.progress import silent
from neuclip.scoring.evaluation_images import score_evaluation_sets
from neuclip.scoring.pool_scores import run_scores
from neuclip.stages.manifest import read_manifest

COLOURS = ("red", "green", "blue", "gray")


@pytest.fixture
def sets(tmp_path):
    """A retrieval set over two shards, one image of it broken, and a classification set."""
    retrieval = tmp_path / "sets" / "wds_colours_test"
    for shard, names in enumerate((COLOURS[:2], COLOURS[2:])):
        members = []
        for name in names:
            content = b"broken" if name == "gray" else picture(name)
            members += [
                (f"{name}.jpg", content),
                (f"{name}.txt", f"A {name} one\nit is {name}\n".encode()),
            ]
        write_tar(retrieval / "test" / f"{shard}.tar", members)
    (retrieval / "test" / "nshards.txt").write_text("2")
    (retrieval / "dataset_type.txt").write_text("retrieval")
    classes = tmp_path / "sets" / "wds_classes"
    write_tar(classes / "test" / "0.tar", [("a.jpg", picture("violet")), ("a.cls", b"0")])
    (classes / "test" / "nshards.txt").write_text("1")
    (classes / "classnames.txt").write_text("violet\n")
    (classes / "zeroshot_classification_templates.txt").write_text("{c}\n")
    return [str(retrieval), str(classes)]


def test_samples_are_described_as_pairs_are(tmp_path, sets, model):
    scores = [
        PHash(kind="phash", name="phash"),
        Embedding(kind="embedding", model=str(model), name="tiny"),
        ClipScore(kind="clip_score", model=str(model)),
        Language(kind="language"),
    ]
    root = str(tmp_path / "lake")
    found = score_evaluation_sets(sets, scores, root=root, progress=silent)
    assert [(one.set, sorted(one.scores)) for one in found] == [
        ("colours", ["phash", "tiny"]),
        ("classes", ["phash", "tiny"]),
    ]
    samples = pq.read_table(f"{found[0].samples}/samples.parquet").to_pylist()
    assert samples == [{"sample": n, "captions": [f"A {n} one", f"it is {n}"]} for n in COLOURS]
    assert pq.read_table(f"{found[1].samples}/samples.parquet").to_pylist() == [
        {"sample": "a", "captions": []}
    ]
    assert read_manifest(found[0].scores["phash"]).ledger.dropped == {"undecodable_image": 1}
    pairs = [
        Pair(n, {"alt": [f"A {c} one"]}, content=picture(c)) for n, c in enumerate(COLOURS[:3])
    ]
    uri = commit_acquired(tmp_path / "lake", [pairs])
    phash, tiny = run_scores(scores[:2], root=root, acquire_uri=uri, progress=silent)
    for score, files in (
        (phash, ("hashes", "pictures")),
        (tiny, ("image_features",)),
    ):
        for name in files:
            ours = np.load(f"{found[0].scores[score.name]}/{name}.npy")
            np.testing.assert_array_equal(ours[:3], np.load(f"{score.folders[0]}/{name}.npy"))
            assert len(ours) == 4
    assert np.load(f"{found[1].scores['tiny']}/image_features.npy").any()
    assert read_manifest(found[0].scores["tiny"]).ledger.dropped == {"undecodable_image": 1}
    assert read_manifest(found[1].scores["tiny"]).ledger.dropped == {}


def test_a_set_is_scored_once_and_again_when_it_changes(tmp_path, sets):
    def score():
        return score_evaluation_sets(
            sets, [PHash(kind="phash", name="phash")], root=str(tmp_path / "lake"), progress=silent
        )

    first = score()
    started = read_manifest(first[0].scores["phash"]).started_at
    assert score() == first
    assert read_manifest(first[0].scores["phash"]).started_at == started
    tar = tmp_path / "sets" / "wds_colours_test" / "test" / "0.tar"
    write_tar(tar, [("new.jpg", picture("black")), ("new.txt", b"new")])
    second = score()
    assert second[0].scores["phash"] != first[0].scores["phash"]
    assert second[1] == first[1]


def test_a_set_that_cannot_be_read_is_an_error(tmp_path, sets):
    def score(uris):
        return score_evaluation_sets(
            uris, [PHash(kind="phash", name="phash")], root=str(tmp_path / "lake"), progress=silent
        )

    with pytest.raises(DataError, match=r"nshards.txt|classnames.txt"):
        score([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="one name: colours, colours"):
        score([sets[0], sets[0]])
    shard = tmp_path / "sets" / "wds_colours_test" / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match="not a whole tar"):
        score(sets)
    write_tar(shard, [("a.jpg", b"no picture"), ("a.txt", b"a")])
    write_tar(shard.with_name("0.tar"), [("b.cls", b"1")])
    with pytest.raises(DataError, match="no image of the evaluation set colours"):
        score(sets)
    assert not list((tmp_path / "lake").glob("score/parts/*/manifest.json"))
