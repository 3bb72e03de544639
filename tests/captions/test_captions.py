"""Oracle: texts made by hand, filtered by a loop over Python dicts."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.acquired import Pair
from made.packed import pack
from pydantic import ValidationError

from neuclip.captions.config import CaptionConfig
from neuclip.captions.sentences import Sentences
from neuclip.captions.template import Template
from neuclip.curate.config import CurateConfig
from neuclip.curate.rules import CaptionCharacters
from neuclip.foundation.errors import ConfigError
from neuclip.shards.config import ShardConfig
from neuclip.stages.manifest import read_manifest

SHARD = ShardConfig(samples_per_shard=4, selection_share=0.01)
PAIRS = [
    Pair(0, {"alt": ["a red ball"], "rewrite": ["ball, red", "one ball"]}),
    Pair(1, {"alt": ["a blue ball"]}),
    Pair(2, {"alt": ["bad"]}),
    Pair(3, {"alt": ["a green ball"], "rewrite": ["ball, green"], "keywords": ["ball"]}),
    Pair(4, {"human": ["someone throws a ball", "a ball in the air"]}),
    Pair(5, {}, unusable={"alt": 1}),
    Pair(6, {}),
    Pair(7, {"alt": ["a ball that was not fetched"]}, failed="http_404"),
    Pair(8, {"rewrite": ["a black ball"]}, unusable={"alt": 1, "rewrite": 2}),
]
KEPT = [PAIRS[number] for number in (0, 1, 3, 4, 8)]


def gather(tmp_path, partitions, *, key="key", **caption):
    return pack(
        tmp_path,
        partitions,
        curate=CurateConfig(rules=[CaptionCharacters(min=5)]),
        caption=CaptionConfig(**caption),
        shard=SHARD,
        key=key,
    )


def listed(packed):
    return pq.read_table(f"{packed.caption}/parts.parquet").to_pylist()


def read(packed):
    """Return uid -> source -> texts, after checking that k counts the texts of each."""
    found = {}
    for row in listed(packed):
        path = Path(packed.caption).parent / "parts" / row["part"] / "texts.parquet"
        texts = pq.read_table(path).to_pylist()
        assert len(texts) == row["texts"]
        for text in texts:
            assert (text["source"], text["status"]) == (row["source"], "ok")
            of_source = found.setdefault(text["uid"], {}).setdefault(text["source"], [])
            assert text["k"] == len(of_source)
            of_source.append(text["text"])
    return found


@pytest.mark.parametrize("most", [16, 1])
def test_every_text_of_a_kept_pair_is_passed_on_or_counted(tmp_path, most):
    packed = gather(tmp_path, [PAIRS[:4], PAIRS[4:]], max_per_source=most)
    expected = {
        pair.uid: {source: texts[:most] for source, texts in pair.captions.items()} for pair in KEPT
    }
    assert read(packed) == expected
    manifest = read_manifest(packed.caption)
    assert (manifest.ledger.entered, manifest.ledger.out) == (5, 5)
    assert read_manifest(packed.curate).ledger.dropped == {"no_caption": 2, "caption_characters": 1}
    for source, counts in manifest.summary["sources"].items():
        texts = [text for pair in KEPT for text in pair.captions.get(source, [])]
        kept = [text for pair in KEPT for text in pair.captions.get(source, [])[:most]]
        unusable = sum(pair.unusable.get(source, 0) for pair in KEPT)
        told = Counter(counts)
        assert (told["texts"], told["unusable"]) == (len(kept), unusable)
        assert told["over_max_per_source"] == len(texts) - len(kept)
        assert told["pairs"] == sum(source in pair.captions for pair in KEPT)


def test_another_source_makes_its_own_parts_alone(tmp_path):
    one = gather(tmp_path, [PAIRS[:4], PAIRS[4:]], key="one")
    folder = Path(one.caption).parent / "parts"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    two = gather(
        tmp_path,
        [PAIRS[:4], PAIRS[4:]],
        key="two",
        derive=[Template(source="shouted", text="{alt}!"), Sentences(source="parts", of="human")],
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before
    new = {path.parent.name for path in set(folder.glob("*/*")) - set(before)}
    assert new == {row["part"] for row in listed(two) if row["source"] in ("shouted", "parts")}
    assert [row for row in listed(two) if row["part"] not in new] == [
        {**row, "partition": row["partition"].replace("one", "two")} for row in listed(one)
    ]


def test_texts_are_made_of_texts(tmp_path):
    packed = gather(
        tmp_path,
        [PAIRS],
        derive=[
            Template(source="both", text="{alt}, {rewrite}"),
            Template(source="twice", text="{both} and {both}"),
        ],
    )
    found = read(packed)
    both = {uid: texts["both"] for uid, texts in found.items() if "both" in texts}
    assert both == {
        PAIRS[0].uid: ["a red ball, ball, red"],
        PAIRS[3].uid: ["a green ball, ball, green"],
    }
    assert found[PAIRS[3].uid]["twice"] == [
        "a green ball, ball, green and a green ball, ball, green"
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One cat sits. Two dogs run away!", ["One cat sits.", "Two dogs run away!"]),
        ("No end\nA new line here", ["A new line here"]),
        ("It costs 3.5 dollars here. Yes.", ["It costs 3.5 dollars here."]),
        ('He said "come with me." Then he went.', ['He said "come with me.', "Then he went."]),
        ("the same one. the same one. the same one.", ["the same one."]),
        ("short", []),
        ("", []),
    ],
)
def test_sentences(text, sentences):
    assert Sentences(source="s").texts({"alt": [text]}) == sentences
    assert Sentences(source="s", of="other").texts({"alt": [text]}) == []


@pytest.mark.parametrize(
    ("derive", "says"),
    [
        ([{"kind": "template", "source": "a", "text": "nothing"}], "places like {alt}"),
        ([{"kind": "template", "source": "a", "text": "{alt} {"}], "places like {alt}"),
        (
            [{"kind": "template", "source": "a", "text": "{a}"}],
            "made of each other: a -> a",
        ),
        ([{"kind": "sentences", "source": "alt"}], "'alt' of derive.0 is there already"),
        ([{"kind": "sentences", "source": "Not A Name"}], "should match pattern"),
        ([{"kind": "sentence", "source": "a"}], "'sentences', 'template'"),
        ([{"kind": "sentences", "source": "a"}] * 2, "'a' of derive.1 is there already"),
    ],
)
def test_a_derived_source_that_cannot_be_is_refused_with_the_recipe(derive, says):
    with pytest.raises(ValidationError, match=says):
        CaptionConfig.model_validate({"derive": derive})


def test_sources_that_clash_with_the_table_or_are_not_there_are_named(tmp_path):
    with pytest.raises(ConfigError, match="makes 'rewrite', which is a source of the table"):
        gather(tmp_path / "a", [PAIRS], derive=[Sentences(source="rewrite")])
    with pytest.raises(
        ConfigError,
        match=r"reads the caption source 'rewrites'.*alt, human, keywords, rewrite.*mean 'rewrite'",
    ):
        gather(tmp_path / "b", [PAIRS], derive=[Sentences(source="s", of="rewrites")])
