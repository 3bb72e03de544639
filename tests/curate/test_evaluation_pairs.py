"""Pairs of evaluation sets are dropped and listed. Oracle: which ones were planted."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired
from made.scored import commit_scored
from PIL import Image, ImageDraw

from neuclip.curate.config import CurateConfig
from neuclip.curate.masks import prepare
from neuclip.curate.run import run_curate
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import silent
from neuclip.shards.tar import TarShard
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import StageIdentity, commit_stage


def drawing(seed, size=160):
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", (160, 160), tuple(draw.integers(0, 256, 3).tolist()))
    canvas = ImageDraw.Draw(image)
    for _ in range(7):
        corner, extent = draw.integers(0, 120, 2), draw.integers(20, 80, 2)
        box = (*corner.tolist(), *(corner + extent).tolist())
        canvas.ellipse(box, fill=tuple(draw.integers(0, 256, 3).tolist()))
    return image.resize((size, size), Image.Resampling.LANCZOS)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def evaluation_set(tmp_path):
    folder = tmp_path / "wds_drawings_test"
    (folder / "test").mkdir(parents=True)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    (folder / "test" / "nshards.txt").write_text("1\n")
    with TarShard(folder / "test" / "0.tar") as tar:
        for number in range(4):
            tar.add(f"s{number:07d}.png", encoded(drawing(1000 + number)))
            tar.add(f"s{number:07d}.txt", f"Drawing No. {number}!\n".encode())
    return str(folder)


def curate(root, pairs, sets, key="k", **config):
    acquire_uri = commit_acquired(root, [pairs[:5], pairs[5:]])
    rules = [{"kind": "caption_words", "min": 2}]
    config = CurateConfig.model_validate(
        {"rules": rules, "decontaminate": {"sets": sets}, **config}
    )
    score_uri = commit_scored(root, acquire_uri, config)
    identity = StageIdentity("curate", 1, key, {}, {}, str(root))

    def work(workspace):
        prepared = prepare(
            config, acquire_uri=acquire_uri, score_uri=score_uri, seed=0, scratch=workspace.scratch
        )
        return run_curate(
            config,
            acquire_uri=acquire_uri,
            workspace=workspace,
            progress=silent,
            scores=prepared.scores,
            masks=prepared.masks,
            contamination=prepared.contamination,
        )

    commit_stage(identity, work)
    return identity.uri


PAIRS = [
    Pair(0, {"alt": ["a clean one"]}, content=encoded(drawing(0))),
    Pair(1, {"alt": ["re-encoded test image"]}, content=encoded(drawing(1001), "JPEG", quality=85)),
    Pair(2, {"alt": ["DRAWING no 2"]}, content=encoded(drawing(2))),
    Pair(3, {"alt": ["failed"]}, failed="http_404"),
    Pair(4, {"alt": ["short"]}, content=encoded(drawing(1003))),
    Pair(5, {"alt": ["a resized test image"]}, content=encoded(drawing(1000, 96))),
    Pair(6, {"alt": ["drawing no 22"]}, content=encoded(drawing(3))),
]


def test_planted_pairs_are_dropped_and_listed_beside_what_they_match(tmp_path, evaluation_set):
    uri = curate(tmp_path, PAIRS, [evaluation_set])
    reasons = [row["reason"] for row in pq.read_table(f"{uri}/verdicts.parquet").to_pylist()]
    gone = "in_evaluation_set"
    assert reasons == [None, gone, gone, gone, gone, None]
    listed = pq.read_table(f"{uri}/contamination.parquet").to_pylist()
    found = {(row["uid"], row["set"], row["sample"], row["by"]) for row in listed}
    assert found == {
        (PAIRS[1].uid, "drawings", "s0000001", "phash"),
        (PAIRS[2].uid, "drawings", "s0000002", "caption"),
        (PAIRS[4].uid, "drawings", "s0000003", "phash"),
        (PAIRS[5].uid, "drawings", "s0000000", "phash"),
    }
    assert read_manifest(uri).summary["rules"][:2] == ["no_caption", gone]


def test_they_stay_where_the_recipe_says_so(tmp_path, evaluation_set):
    uri = curate(tmp_path, PAIRS, [], decontaminate={"sets": [evaluation_set], "images": False})
    assert read_manifest(uri).ledger.dropped == {"in_evaluation_set": 1, "caption_words": 1}
    uri = curate(tmp_path, PAIRS, [], key="off", decontaminate=None)
    assert read_manifest(uri).ledger.dropped == {"caption_words": 1}
    assert not (tmp_path / "curate" / "off" / "contamination.parquet").exists()


def test_a_set_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(Exception, match=r"no classnames.txt in .*wds_none"):
        curate(tmp_path, PAIRS, [str(tmp_path / "wds_none")])


def test_a_score_that_is_not_there_is_named(tmp_path, evaluation_set):
    asks = {"sets": [evaluation_set], "embedding": {"score": "b32"}}
    with pytest.raises(ConfigError, match="asks for score 'b32'"):
        curate(tmp_path, PAIRS, [], decontaminate=asks)
    rule = {"kind": "image_cluster", "score": "b32", "target": evaluation_set}
    with pytest.raises(ConfigError, match="image_cluster asks for score 'b32'"):
        curate(tmp_path, PAIRS, [], key="b", rules=[rule])
