"""Oracle: a table made by hand, with the verdict each row must get."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired
from made.committed import vouch_for
from pydantic import TypeAdapter, ValidationError

from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.progress import silent
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import StageIdentity, commit_stage

RULES = [
    {"kind": "caption_characters", "name": "too_short", "min": 5},
    {"kind": "caption_characters", "name": "too_long", "max": 30},
    {"kind": "caption_words", "name": "too_few_words", "min": 2},
    {"kind": "caption_words", "name": "too_many_words", "max": 4},
    {"kind": "image_side", "min": 16},
    {"kind": "aspect_ratio", "max": 2},
    {"kind": "duplicate_pairs"},
    {"kind": "duplicate_images"},
]


def config(*rules):
    return CurateConfig.model_validate({"rules": list(rules)})


def alt(text):
    return {"alt": [text]}


EXPECTED = [
    (Pair(0, alt("a red ball")), None),
    (Pair(1, {"rewrite": ["no alt here"]}), None),
    (Pair(2, alt(" \u3000\u00a0 ")), "no_caption"),
    (Pair(3, alt("a b")), "too_short"),
    (Pair(4, alt("x" * 20 + " " + "y" * 20)), "too_long"),
    (Pair(5, alt("single-word")), "too_few_words"),
    (Pair(6, alt("one two three four five")), "too_many_words"),
    (Pair(7, alt("small picture"), size=(15, 20)), "image_side"),
    (Pair(8, alt("wide picture"), size=(49, 24)), "aspect_ratio"),
    (Pair(9, alt("exactly twice"), size=(48, 24)), None),
    (Pair(10, alt("same image"), picture=10), "duplicate_images"),
    (Pair(11, alt("same image, longer text"), picture=10), None),
    (Pair(12, alt("same pair"), url="http://127.0.0.1/same"), None),
    (Pair(13, alt("same pair"), url="http://127.0.0.1/same"), None),
    (Pair(14, alt("it's an O'Brien \u96ea"), picture=14), None),
    (Pair(15, alt("x"), picture=0), "too_short"),
    (Pair(16, alt("two\u00a0words")), None),
    (Pair(17, alt("un\u00addivided"), picture=17), "too_few_words"),
    (Pair(18, {"rewrite": [" \t"], "alt": [""]}), "no_caption"),
    (Pair(19, {}, unusable={"alt": 1, "rewrite": 2}), "no_caption"),
    (Pair(20, {"alt": [" "], "rewrite": ["", "\u2003", "a second text"]}, picture=20), "too_short"),
    (Pair(21, {"rewrite": ["", "\u2003", "a third text"]}, unusable={"alt": 1}), None),
    (Pair(22, {"rewrite": ["the first of a page"]}, url="http://127.0.0.1/same.png"), None),
    (Pair(23, {"rewrite": ["its second text"]}, url="http://127.0.0.1/same.png"), None),
]


def judge(root, partitions, curate, key="k", **columns):
    acquire_uri = commit_acquired(root, partitions, **columns)
    identity = StageIdentity("curate", 1, key, {}, {}, str(root))
    commit_stage(
        identity,
        lambda w: run_curate(curate, acquire_uri=acquire_uri, workspace=w, progress=silent),
    )
    return identity.uri


def reasons(uri):
    return {
        row["uid"]: row["reason"] for row in pq.read_table(f"{uri}/verdicts.parquet").to_pylist()
    }


def test_every_row_gets_its_verdict(tmp_path):
    pairs = [pair for pair, _ in EXPECTED]
    failed = Pair(99, alt("never came"), failed="http_404")
    expected = {pair.uid: reason for pair, reason in EXPECTED}
    loser = max(pairs[12], pairs[13], key=lambda pair: pair.uid)
    expected[loser.uid] = "duplicate_pairs"
    uri = judge(tmp_path, [[*pairs[:6], failed], pairs[6:]], config(*RULES))
    rows = pq.read_table(f"{uri}/verdicts.parquet").to_pylist()
    assert [row["uid"] for row in rows] == [pair.uid for pair in pairs]
    assert {row["uid"]: row["reason"] for row in rows} == expected
    assert all(row["kept"] == (row["reason"] is None) for row in rows)
    ledger = read_manifest(uri).ledger
    assert ledger.entered == len(pairs)
    assert ledger.out == sum(reason is None for reason in expected.values())
    kept = sorted(uid for uid, reason in expected.items() if reason is None)
    subset = np.load(f"{uri}/kept.npy", allow_pickle=False)
    assert subset.dtype == np.dtype("u8,u8")
    assert [f"{first:016x}{last:016x}" for first, last in subset.tolist()] == kept


def test_all_failures_of_a_pair_are_told_not_only_the_first(tmp_path):
    uri = judge(tmp_path, [[pair for pair, _ in EXPECTED]], config(*RULES))
    names = read_manifest(uri).summary["rules"]
    failed = {
        row["uid"]: [name for bit, name in enumerate(names) if row["failed"] >> bit & 1]
        for row in pq.read_table(f"{uri}/verdicts.parquet").to_pylist()
    }
    assert names == ["no_caption", *[rule.get("name", rule["kind"]) for rule in RULES]]
    assert failed[EXPECTED[0][0].uid] == []
    assert failed[EXPECTED[4][0].uid] == ["too_long"]
    assert failed[EXPECTED[15][0].uid] == ["too_short", "too_few_words"]
    steps = {step["reason"]: step for step in json.loads(_funnel(uri))["steps"]}
    assert steps["too_few_words"]["dropped"] == 2
    assert steps["too_few_words"]["alone"] == 6  # the blank ones (2, 18, 20) and number 15 too
    assert steps["too_few_words"]["overlap"] == {"no_caption": 2, "too_short": 4}
    assert steps["duplicate_images"]["alone"] == 2  # number 15 has the picture of number 0


def _funnel(uri):
    return Path(uri, "funnel.json").read_text()


def test_no_rules_keep_every_pair_with_a_text_of_any_source(tmp_path):
    uri = judge(tmp_path, [[pair for pair, _ in EXPECTED]], config())
    assert read_manifest(uri).ledger.dropped == {"no_caption": 3}
    dropped = {uid for uid, reason in reasons(uri).items() if reason}
    assert dropped == {pair.uid for pair, reason in EXPECTED if reason == "no_caption"}


SOURCES = [
    Pair(0, {"alt": ["one two three"], "rewrite": ["x", "one two three"]}),
    Pair(1, {"alt": ["https://x.org"], "rewrite": ["a fine text"]}),
    Pair(2, {"rewrite": ["https://x.org"]}),
    Pair(3, {"alt": ["a fine text"]}, unusable={"rewrite": 1}),
]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"kind": "caption_words", "min": 2}, [None, "caption_words", None, None]),
        (
            {"kind": "caption_words", "min": 2, "missing": "drop"},
            [None, "caption_words", "caption_words_missing", None],
        ),
        (
            {"kind": "caption_words", "min": 2, "source": "rewrite"},
            ["caption_words", None, "caption_words", None],
        ),
        (
            {"kind": "caption_characters", "name": "brief", "max": 11, "source": "rewrite"}
            | {"missing": "drop"},
            [None, None, "brief", "brief_missing"],
        ),
        ({"kind": "caption_noise"}, [None, "caption_noise", None, None]),
        (
            {"kind": "caption_noise", "source": "rewrite", "missing": "drop"},
            [None, None, "caption_noise", "caption_noise_missing"],
        ),
        (
            {"kind": "sql", "keep": "captions['rewrite'][2] = alt"},
            [None, "sql", "sql", "sql"],
        ),
    ],
)
def test_a_rule_looks_at_the_first_text_of_the_source_it_names(tmp_path, rule, expected):
    uri = judge(tmp_path, [SOURCES[:2], SOURCES[2:]], config(rule))
    assert [reasons(uri)[pair.uid] for pair in SOURCES] == expected
    counted = {reason: expected.count(reason) for reason in expected if reason}
    assert read_manifest(uri).ledger.dropped == counted


@pytest.mark.parametrize(
    "kind", ["caption_words", "caption_characters", "caption_noise", "balance"]
)
def test_a_source_that_no_pair_has_is_told_with_the_nearest_one(tmp_path, kind):
    (tmp_path / "entries.txt").write_text("fine\n")
    of_kind = {
        "caption_words": {"min": 2},
        "caption_characters": {"min": 2},
        "caption_noise": {},
        "balance": {"metadata": str(tmp_path / "entries.txt")},
    }
    rule = {"kind": kind, "source": "rewrites", **of_kind[kind]}
    with pytest.raises(ConfigError) as caught:
        judge(tmp_path, [SOURCES], config({"kind": "image_side", "min": 1}, rule))
    said = str(caught.value)
    assert f"curate.rules.1 ({kind}) names the caption source 'rewrites'" in said
    assert "sources here: alt, rewrite" in said
    assert "Did you mean 'rewrite'?" in said
    assert "acquire.caption_columns" in said
    assert not list(tmp_path.glob("curate/k/manifest.json"))


def test_a_source_of_which_every_text_is_unusable_is_one(tmp_path):
    pairs = [Pair(0, alt("a red ball"), unusable={"rewrite": 2}), Pair(1, alt("a blue ball"))]
    rule = {"kind": "caption_words", "min": 2, "source": "rewrite"}
    assert set(reasons(judge(tmp_path, [pairs], config(rule))).values()) == {None}
    with pytest.raises(DataError, match=r"none of 2 pairs .*2 caption_words_missing"):
        judge(tmp_path, [pairs], config({**rule, "missing": "drop"}), key="b")


def test_rules_over_alt_texts_pass_a_table_without_any(tmp_path):
    pairs = [Pair(n, {"long": [f"a text about number {n}"]}) for n in range(3)]
    rule = {"kind": "caption_words", "min": 99}
    assert set(reasons(judge(tmp_path, [pairs], config(rule))).values()) == {None}


def test_keeping_nothing_is_an_error_that_says_why(tmp_path):
    with pytest.raises(DataError, match=r"none of 1 pairs .*1 too_few_words"):
        judge(tmp_path, [[Pair(0, alt("single-word"))]], config(*RULES))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"kind": "caption_words", "min": 5, "max": 2}, "min 5 is above max 2"),
        ({"kind": "caption_words"}, "neither min nor max"),
        ({"kind": "caption_wrods", "min": 5}, "caption_wrods"),
        ({"kind": "aspect_ratio", "name": "Too Wide"}, "pattern"),
        ({"kind": "duplicate_images", "best": ["prettiest"]}, "pattern"),
        ({"kind": "column", "column": "x", "min": float("nan")}, "finite"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(CurateConfig).validate_python({"rules": [rule]})


def test_two_rules_of_one_name_are_refused():
    rule = {"kind": "caption_words", "min": 2}
    with pytest.raises(ValidationError, match="two rules are called 'caption_words'"):
        config(rule, rule)


COLUMNS = {
    "score": [0.1, 0.9, None, float("nan"), 0.5, 0.7],
    "safe": [True, None, False, True, True, True],
}


def columns_of(pairs, first=0):
    return {name: values[first : first + len(pairs)] for name, values in COLUMNS.items()}


@pytest.fixture
def scored(tmp_path):
    pairs = [Pair(n, alt(f"picture {n}")) for n in range(6)]

    def judged(*rules):
        key = str(len(list(tmp_path.glob("curate/*"))))
        uri = judge(
            tmp_path,
            [pairs[:4], pairs[4:]],
            config(*rules),
            key=key,
            columns=[columns_of(pairs[:4]), columns_of(pairs[4:], 4)],
        )
        found = reasons(uri)
        return [found[pair.uid] for pair in pairs]

    return judged


def test_a_threshold_drops_what_has_no_number_by_a_reason_of_its_own(scored):
    missing = "column_missing"
    assert scored({"kind": "column", "column": "score", "min": 0.5}) == [
        *("column", None, missing, missing, None, None)
    ]
    kept = scored({"kind": "column", "column": "score", "min": 0.5, "missing": "keep"})
    assert kept == ["column", None, None, None, None, None]


def test_a_fraction_is_of_the_whole_pool(scored):
    """Of 6 pairs the place int(6 x 0.4) = 2 from 0 downwards is 0.5: 0.9, 0.7 and 0.5 are kept."""
    found = scored(
        {"kind": "caption_words", "name": "never", "max": 99},
        {"kind": "top_fraction", "column": "score", "fraction": 0.4},
    )
    missing = "top_fraction_missing"
    assert found == ["top_fraction", None, missing, missing, None, None]


def test_an_expression_may_ask_all_columns(scored):
    found = scored(
        {"kind": "sql", "keep": "safe AND (score > 0.2 OR alt LIKE '%0') AND width = 24"}
    )
    assert found == [None, "sql", "sql", None, None, None]  # NaN is above all numbers in SQL


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("scroe > 1", r"(?s)curate\.rules\.0.*scroe.*Did you mean 'score'"),
        ("score", "gives (FLOAT|DOUBLE), expected a condition"),
        ("score > (SELECT avg(score) FROM pairs)", "subquery"),
        ("row_number() OVER () = 1", "window"),
        ("random() < 0.5", "calls random"),
        ("score > 0); DROP TABLE pairs; SELECT (1", "parse|one expression"),
        ("score > 0 FROM read_csv('secrets')", "parse|one expression"),
        ("score >", "does not parse"),
        ("sum(score) > 3", "aggregate"),
        ("'x' = getenv('HOME')", "getenv"),
    ],
)
def test_an_expression_that_is_none_is_refused_before_anything_is_judged(scored, keep, message):
    with pytest.raises(ConfigError, match=message):
        scored({"kind": "sql", "keep": keep})


def test_a_column_that_is_not_there_is_named(scored):
    with pytest.raises(ConfigError, match=r"(?s)'?scores'?.*Did you mean 'score'.*keep_columns"):
        scored({"kind": "column", "column": "scores", "min": 1})


def test_a_fraction_of_nothing_is_refused(tmp_path):
    pairs = [Pair(n, alt(f"picture {n}")) for n in range(3)]
    rule = {"kind": "top_fraction", "column": "score", "fraction": 0.5}
    with pytest.raises(DataError, match="none of 3 pairs has a number in column 'score'"):
        judge(tmp_path, [pairs], config(rule), columns=[{"score": [None, None, float("nan")]}])


def test_tables_that_do_not_stand_beside_each_other_are_refused(tmp_path):
    acquire_uri = commit_acquired(
        tmp_path, [[Pair(0, alt("a b")), Pair(1, alt("a b"))]], columns=[{"score": [1.0, 2.0]}]
    )
    path = next(tmp_path.glob("acquire/acquired/columns/*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0]), path)
    vouch_for(path, path.parents[1])
    identity = StageIdentity("curate", 1, "k", {}, {}, str(tmp_path))
    with pytest.raises(Exception, match=r"are not those of .* row by row"):
        commit_stage(
            identity,
            lambda w: run_curate(config(), acquire_uri=acquire_uri, workspace=w, progress=silent),
        )


NOISE = {
    "https://example.com/a": "url",
    "see www.example.com": "url",
    "IMG_1234.JPG": "file",
    "DSC 00012": "file",
    "<b>bold</b>": "markup",
    "this &amp; that": "markup",
    "12345 - 678": "letters",
    "!!!": "letters",
    "Image": "placeholder",
    "untitled 3": "placeholder",
    "wow!!!!!!": "repeated",
}
SOUND = [
    "A photo of a cat",
    "Image of a dog",
    "logo design for a caf\u00e9",
    "\u732b",
    "\u041a\u043e\u0442",
    "5 > 3, he said",
]


def test_noise_is_told_from_captions(tmp_path):
    texts = [*NOISE, *SOUND]
    pairs = [Pair(n, alt(text)) for n, text in enumerate(texts)]
    uri = judge(tmp_path, [pairs], config({"kind": "caption_noise"}))
    found = reasons(uri)
    assert [text for text, pair in zip(texts, pairs, strict=True) if found[pair.uid]] == list(NOISE)


def test_a_pattern_of_ones_own(tmp_path):
    pairs = [
        Pair(n, alt(text)) for n, text in enumerate(["buy it's now", "a cat", "https://x.org"])
    ]
    rule = {"kind": "caption_noise", "patterns": ["(?i)\\bBUY it's"]}
    assert list(reasons(judge(tmp_path, [pairs], config(rule))).values()) == [
        "caption_noise",
        None,
        None,
    ]
    with pytest.raises(ConfigError, match=r"(?s)curate\.rules\.0 \(caption_noise\).*missing"):
        judge(tmp_path, [pairs], config({"kind": "caption_noise", "patterns": ["(open"]}), key="b")


def test_the_best_of_a_group_is_kept_by_the_stated_order(tmp_path):
    pairs = [
        Pair(0, alt("long caption here"), picture=1),
        Pair(1, alt("short"), picture=1),
        Pair(2, alt("short"), picture=1),
    ]
    scores = {"score": [0.1, 0.9, 0.9]}
    best = ["highest score", "longest_caption"]
    rule = {"kind": "duplicate_images", "best": best}
    uri = judge(tmp_path, [pairs], config(rule), columns=[scores])
    keeper = min(pairs[1].uid, pairs[2].uid)
    assert [uid for uid, reason in reasons(uri).items() if reason is None] == [keeper]
    group = pq.read_table(f"{uri}/groups/duplicate_images.parquet").to_pylist()
    assert {row["keeper_uid"] for row in group} == {keeper}
    assert {row["uid"] for row in group} == {pair.uid for pair in pairs} - {keeper}


def test_a_truncated_partition_is_refused(tmp_path):
    acquire_uri = commit_acquired(tmp_path, [[Pair(0, alt("a red ball"))]])
    tar = next(tmp_path.glob("acquire/parts/*/images.tar"))
    tar.write_bytes(tar.read_bytes()[:100])
    identity = StageIdentity("curate", 1, "k", {}, {}, str(tmp_path))
    with pytest.raises(Exception, match="has 100 bytes, expected 10240"):
        commit_stage(
            identity,
            lambda w: run_curate(config(), acquire_uri=acquire_uri, workspace=w, progress=silent),
        )
    assert not (tmp_path / "curate" / "k" / "manifest.json").exists()
