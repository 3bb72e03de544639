"""Oracle: a table made by hand, with the verdict each row must get."""

import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired

from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import silent
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import StageIdentity, commit_stage

RULES = CurateConfig(
    min_chars=5, max_chars=30, min_words=2, max_words=4, min_side_px=16, max_aspect_ratio=2.0
)


def alt(text):
    return {"alt": [text]}


EXPECTED = [
    (Pair(0, alt("a red ball")), None),
    (Pair(1, {"rewrite": ["no alt here"]}), "no_caption"),
    (Pair(2, alt("   ")), "no_caption"),
    (Pair(3, alt("a b")), "caption_too_short"),
    (Pair(4, alt("x" * 20 + " " + "y" * 20)), "caption_too_long"),
    (Pair(5, alt("single-word")), "too_few_words"),
    (Pair(6, alt("one two three four five")), "too_many_words"),
    (Pair(7, alt("small picture"), size=(15, 20)), "image_too_small"),
    (Pair(8, alt("wide picture"), size=(49, 24)), "aspect_ratio"),
    (Pair(9, alt("exactly twice"), size=(48, 24)), None),
    (Pair(10, alt("same image"), picture=10), "duplicate_image"),
    (Pair(11, alt("same image, longer text"), picture=10), None),
    (Pair(12, alt("same pair"), url="http://127.0.0.1/same"), None),
    (Pair(13, alt("same pair"), url="http://127.0.0.1/same"), None),
    (Pair(14, alt("it's an O'Brien \u96ea"), picture=14), None),
    (Pair(15, alt("x"), picture=0), "caption_too_short"),
]


def judge(root, partitions, config):
    acquire_uri = commit_acquired(root, partitions)
    identity = StageIdentity("curate", 1, "k", {}, {}, str(root))
    commit_stage(
        identity,
        lambda w: run_curate(config, acquire_uri=acquire_uri, workspace=w, progress=silent),
    )
    return identity.uri


def test_every_row_gets_its_verdict(tmp_path):
    pairs = [pair for pair, _ in EXPECTED]
    failed = Pair(99, alt("never came"), failed="http_404")
    expected = {pair.uid: reason for pair, reason in EXPECTED}
    loser = max(pairs[12], pairs[13], key=lambda pair: pair.uid)
    expected[loser.uid] = "duplicate_pair"
    uri = judge(tmp_path, [[*pairs[:6], failed], pairs[6:]], RULES)
    rows = pq.read_table(f"{uri}/verdicts.parquet").to_pylist()
    assert [row["uid"] for row in rows] == [pair.uid for pair in pairs]
    assert {row["uid"]: row["reason"] for row in rows} == expected
    assert all(row["kept"] == (row["reason"] is None) for row in rows)
    ledger = read_manifest(uri).ledger
    assert ledger.entered == len(pairs)
    assert ledger.out == sum(reason is None for reason in expected.values())


def test_all_rules_off_keeps_every_pair_with_a_caption(tmp_path):
    off = CurateConfig(
        min_chars=None, min_words=None, drop_duplicate_images=False, drop_duplicate_pairs=False
    )
    uri = judge(tmp_path, [[pair for pair, _ in EXPECTED]], off)
    assert read_manifest(uri).ledger.dropped == {"no_caption": 2}


def test_keeping_nothing_is_an_error_that_says_why(tmp_path):
    with pytest.raises(DataError, match=r"none of 1 pairs .*1 too_few_words"):
        judge(tmp_path, [[Pair(0, alt("single-word"))]], RULES)


def test_contradictory_bounds_are_refused():
    with pytest.raises(ValueError, match="min_words 5 is above max_words 2"):
        CurateConfig(min_words=5, max_words=2)


def test_a_truncated_partition_is_refused(tmp_path):
    acquire_uri = commit_acquired(tmp_path, [[Pair(0, alt("a red ball"))]])
    tar = next(tmp_path.glob("acquire/parts/*/images.tar"))
    tar.write_bytes(tar.read_bytes()[:100])
    identity = StageIdentity("curate", 1, "k", {}, {}, str(tmp_path))
    with pytest.raises(Exception, match="has 100 bytes, expected 10240"):
        commit_stage(
            identity,
            lambda w: run_curate(RULES, acquire_uri=acquire_uri, workspace=w, progress=silent),
        )
    assert not (tmp_path / "curate" / "k" / "manifest.json").exists()
