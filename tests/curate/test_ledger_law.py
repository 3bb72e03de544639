"""Oracle: the rules of random recipes in plain Python, one pair after the other; and the ledger's own law."""

import hashlib
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate.plain import judge_plainly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made.acquired import Pair, commit_acquired

from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.progress import silent
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import StageIdentity, commit_stage

WORDS = [
    "a",
    "red",
    "ball",
    "IMG_1",
    "\u96ea",
    "O'Brien",
    "caf\u00e9",
    "\U0001f600",
    "https://x.org",
    "\u0130",
]
SPACES = [" ", "  ", "\u00a0", "\t", "\u3000", "\n", "\x1f"]

texts = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SPACES)), max_size=6).map(
    lambda parts: "".join(word + space for word, space in parts)
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
scores = st.none() | st.just(math.nan) | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -1.0])

rows = st.fixed_dictionaries(
    {
        "alt": st.none() | texts,
        "rewrite": st.none() | texts,
        "size": st.tuples(st.integers(8, 24), st.integers(8, 24)),
        "picture": st.integers(0, 4),
        "url": st.integers(0, 3),
        "failed": st.sampled_from([None, None, None, "http_404"]),
        "score": scores,
    }
)

bounds = st.tuples(st.integers(1, 6), st.integers(0, 6))
of_text = st.one_of(
    bounds.map(lambda b: {"kind": "caption_words", "min": b[0], "max": b[0] + b[1]}),
    st.integers(1, 4).map(lambda n: {"kind": "caption_words", "min": n}),
    bounds.map(lambda b: {"kind": "caption_characters", "min": b[0], "max": b[0] + 3 * b[1]}),
)
source = st.sampled_from(
    [
        {},
        {"missing": "drop"},
        {"source": "alt", "missing": "keep"},
        {"source": "rewrite"},
        {"source": "rewrite", "missing": "drop"},
    ]
)
rule = st.one_of(
    st.tuples(of_text, source).map(lambda parts: {**parts[0], **parts[1]}),
    st.integers(8, 20).map(lambda n: {"kind": "image_side", "min": n}),
    st.sampled_from([1, 1.5, 2]).map(lambda r: {"kind": "aspect_ratio", "max": r}),
    st.tuples(st.sampled_from([0.0, 0.5]), st.sampled_from(["drop", "keep"])).map(
        lambda b: {"kind": "column", "column": "score", "min": b[0], "missing": b[1]}
    ),
    st.tuples(st.sampled_from([0.1, 0.34, 0.5, 0.9]), st.sampled_from(["drop", "keep"])).map(
        lambda b: {"kind": "top_fraction", "column": "score", "fraction": b[0], "missing": b[1]}
    ),
    st.just({"kind": "duplicate_pairs"}),
    st.sampled_from(
        [["longest_caption"], ["highest score", "largest_image"], ["lowest score"], []]
    ).map(lambda best: {"kind": "duplicate_images", "best": best}),
)
recipes = st.lists(rule, max_size=5).map(
    lambda rules: [{**one, "name": f"rule{place}"} for place, one in enumerate(rules)]
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(rows, min_size=1, max_size=14), recipe=recipes, data=st.data())
def test_kept_and_dropped_by_the_first_failing_rule_add_up(tmp_path, rows, recipe, data):
    numbered = [{**row, "number": number} for number, row in enumerate(rows)]
    try:
        expected = judge_plainly([_plain(row) for row in numbered], recipe)
    except LookupError:
        expected = {}
    if _names_a_source_of_none(recipe, rows):
        with pytest.raises(ConfigError, match="'rewrite', which no pair has a text of"):
            _judge(tmp_path, [numbered], recipe)
        return
    cut = data.draw(st.integers(0, len(rows)))
    order = data.draw(st.permutations(numbered))
    in_two = [part for part in (numbered[:cut], numbered[cut:]) if part]
    for shuffled, partitions in ((numbered, in_two), (order, [order])):
        outcome = _judge(tmp_path, partitions, recipe)
        if not any(reason is None for reason in expected.values()):
            assert outcome is None
            continue
        verdicts, ledger = outcome
        assert [row["uid"] for row in verdicts] == [
            _pair(row).uid for row in shuffled if not row["failed"]
        ]
        assert {row["uid"]: row["reason"] for row in verdicts} == expected
        assert ledger.entered == len(expected)
        assert ledger.out == sum(reason is None for reason in expected.values())
        assert ledger.entered == ledger.out + sum(ledger.dropped.values())


@pytest.mark.slow
@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(rows, min_size=1, max_size=40), recipe=recipes, data=st.data())
def test_the_same_at_length(tmp_path, rows, recipe, data):
    test_kept_and_dropped_by_the_first_failing_rule_add_up.hypothesis.inner_test(
        tmp_path, rows, recipe, data
    )


def _judge(root, partitions, recipe):
    """Return verdict rows and ledger, None if nothing was kept."""
    content = repr((partitions, recipe)).encode()
    place = root / hashlib.sha256(content).hexdigest()[:16]
    columns = [{"score": _doubles(part)} for part in partitions]
    acquire_uri = commit_acquired(
        place, [[_pair(row) for row in part] for part in partitions], columns=columns
    )
    config = CurateConfig.model_validate({"rules": recipe})
    identity = StageIdentity("curate", 1, "k", {}, {}, str(place))
    try:
        commit_stage(
            identity,
            lambda w: run_curate(config, acquire_uri=acquire_uri, workspace=w, progress=silent),
        )
    except DataError:
        return None
    verdicts = pq.read_table(f"{identity.uri}/verdicts.parquet").to_pylist()
    return verdicts, read_manifest(identity.uri).ledger


def _names_a_source_of_none(recipe, rows):
    is_named = any(rule.get("source") == "rewrite" for rule in recipe)
    return is_named and all(row["rewrite"] is None for row in rows)


def _doubles(part):
    return pa.array([row["score"] for row in part], pa.float64())


def _pair(row):
    captions = {name: [row[name]] for name in ("alt", "rewrite") if row[name] is not None}
    return Pair(
        row["number"],
        captions,
        size=row["size"],
        picture=row["picture"],
        url=f"http://127.0.0.1/{row['url']}",
        failed=row["failed"],
    )


def _plain(row):
    pair = _pair(row)
    return {**row, "uid": pair.uid, "url": pair.url, "image": (row["picture"], row["size"])}
