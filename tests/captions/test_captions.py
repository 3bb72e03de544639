"""Oracle: captions made by hand, filtered by a loop over Python dicts."""

import pyarrow.parquet as pq
import pytest
from made.acquired import Pair
from made.packed import pack

from neuclip.captions.config import CaptionConfig
from neuclip.curate.config import CurateConfig
from neuclip.curate.rules import CaptionCharacters
from neuclip.foundation.errors import DataError
from neuclip.shards.config import ShardConfig
from neuclip.stages.manifest import read_manifest

SHARD = ShardConfig(samples_per_shard=4, selection_share=0.01)
PAIRS = [
    Pair(0, {"alt": ["a red ball"], "rewrite": ["ball, red", "one ball"]}),
    Pair(1, {"alt": ["a blue ball"]}),
    Pair(2, {"alt": ["bad"]}),
    Pair(3, {"alt": ["a green ball"], "rewrite": ["ball, green"], "keywords": ["ball"]}),
]


def read(packed):
    rows = pq.read_table(f"{packed.caption}/captions.parquet").to_pylist()
    return {row["uid"]: dict(row["captions"]) for row in rows}


@pytest.mark.parametrize(
    ("sources", "most"), [(None, 16), (["alt"], 16), (["rewrite", "alt"], 1), (["rewrite"], 16)]
)
def test_sources_are_passed_on(tmp_path, sources, most):
    packed = pack(
        tmp_path,
        [PAIRS],
        curate=CurateConfig(rules=[CaptionCharacters(min=5)]),
        caption=CaptionConfig(sources=sources, max_per_source=most),
        shard=SHARD,
    )
    expected = {}
    for pair in PAIRS:
        passed = {
            s: texts[:most] for s, texts in pair.captions.items() if sources is None or s in sources
        }
        if passed and len(pair.captions["alt"][0]) >= 5:
            expected[pair.uid] = passed
    assert read(packed) == expected
    ledger = read_manifest(packed.caption).ledger
    assert (ledger.entered, ledger.out) == (3, len(expected))


def test_an_unknown_source_is_named_with_the_nearest(tmp_path):
    with pytest.raises(
        DataError, match=r"'rewrites'.*alt, keywords, rewrite.*Did you mean 'rewrite'"
    ):
        pack(tmp_path, [PAIRS], caption=CaptionConfig(sources=["rewrites"]))
