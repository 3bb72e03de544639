"""Balancing. Oracle: substring search in padded texts, and the law of large numbers."""

import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired

from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import silent
from neuclip.stages.workspace import StageIdentity, commit_stage


def kept(root, partitions, metadata, most, seed=0, key="k", **more):
    (root / "metadata.txt").write_text("\n".join(metadata), encoding="utf-8")
    acquire_uri = commit_acquired(root, partitions, key=f"acquired-{key}")
    rule = {"kind": "balance", "metadata": str(root / "metadata.txt"), "most_per_entry": most}
    rule |= more
    config = CurateConfig.model_validate({"rules": [rule]})
    identity = StageIdentity("curate", 1, key, {}, {}, str(root))
    commit_stage(
        identity,
        lambda w: run_curate(
            config, acquire_uri=acquire_uri, workspace=w, progress=silent, seed=seed
        ),
    )
    rows = pq.read_table(f"{identity.uri}/verdicts.parquet").to_pylist()
    return {row["uid"] for row in rows if row["kept"]}


def some(texts):
    return [Pair(n, {"alt": [text]}) for n, text in enumerate(texts)]


def test_pairs_that_match_nothing_go_and_rare_ones_stay(tmp_path):
    texts = [
        "A New York street",
        "york",
        "in New-York!",
        "newyork",
        "caf\u00e9 au lait",
        "tea",
        "CAFE\u0301",
    ]
    metadata = ["new york", "Caf\u00e9", "", "  tea  ", "tea"]
    pairs = some(texts)
    found = kept(tmp_path, [pairs], metadata, 100)
    assert [text for text, pair in zip(texts, pairs, strict=True) if pair.uid in found] == [
        *("A New York street", "in New-York!", "caf\u00e9 au lait", "tea", "CAFE\u0301")
    ]


def test_frequent_entries_are_thinned_out_and_a_rare_word_saves_a_pair(tmp_path):
    texts = ["a cat"] * 900 + ["a dog"] * 60 + ["a cat and a unicorn"] * 10
    pairs = some(texts)
    found = kept(tmp_path, [pairs], ["cat", "dog", "unicorn"], 100)
    counts = dict.fromkeys(("cat", "dog", "unicorn"), 0)
    for text, pair in zip(texts, pairs, strict=True):
        counts[text.split()[-1]] += pair.uid in found
    assert counts["dog"] == 60
    assert counts["unicorn"] == 10
    assert 65 < counts["cat"] < 135  # 900 draws at 100 / 910: mean 99, standard deviation 9.4


def test_the_draw_is_by_seed_and_uid_alone(tmp_path):
    pairs = some(["a cat"] * 60)
    first = kept(tmp_path, [pairs], ["cat"], 20, key="a")
    assert kept(tmp_path, [pairs[40:], pairs[:40]], ["cat"], 20, key="b") == first
    assert kept(tmp_path, [pairs], ["cat"], 20, seed=1, key="c") != first


def test_the_texts_of_another_source_are_matched_by_their_first(tmp_path):
    pairs = [
        Pair(0, {"alt": ["a cat"], "rewrite": ["a dog", "a cat"]}),
        Pair(1, {"alt": ["a dog"], "rewrite": ["The CAT"]}),
        Pair(2, {"rewrite": ["one cat"]}),
        Pair(3, {"alt": ["a cat"]}),
        Pair(4, {"alt": ["a cat"], "rewrite": ["", "a cat"]}),
    ]
    found = kept(tmp_path, [pairs[:2], pairs[2:]], ["cat"], 100, source="rewrite")
    assert found == {pairs[1].uid, pairs[2].uid}
    assert kept(tmp_path, [pairs], ["cat"], 100, key="alt") == {
        pair.uid for pair in pairs if pair.captions.get("alt") == ["a cat"]
    }


def test_metadata_without_entries_is_refused(tmp_path):
    with pytest.raises(DataError, match="no entry"):
        kept(tmp_path, [some(["a cat"])], ["", "!!"], 1)
