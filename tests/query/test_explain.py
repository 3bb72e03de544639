"""Oracles: the pairs made by hand, tarfile, pyarrow on the member table."""

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.acquired import png
from query.journeys import do_stages, make_pairs, make_recipe
from query.test_sql import command

from neuclip.foundation.errors import ConfigError, DataError
from neuclip.journey import identify
from neuclip.query.explain import explain
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, commit_stage


def members_of(asked):
    return {
        m["uid"]: m for m in pq.read_table(f"{asked.uris['shard']}/members.parquet").to_pylist()
    }


def test_a_pair_that_is_trained_on_is_followed_to_its_bytes(asked):
    members = members_of(asked)
    pair = next(p for p in asked.pairs["kept"] if members[p.uid]["sample_id"] is not None)
    story = explain(asked.recipe, pair.uid)
    assert list(story.stages) == ["acquire", "score", "curate", "caption", "shard", "index"]
    assert story.end == "train has not been done with this recipe: run `--only train`"
    acquired = story.stages["acquire"]
    number = [p.uid for group in asked.pairs.values() for p in group].index(pair.uid)
    assert (acquired["url"], acquired["captions"]) == (pair.url, pair.captions)
    assert (acquired["file"], acquired["row"]) == (
        "made.parquet",
        1000 * (number // 30) + number % 30,
    )
    assert acquired["partition"].endswith(f"part{number // 30}")
    assert story.stages["curate"]["failed"] == []
    assert story.stages["caption"]["captions"] == pair.captions
    shard = story.stages["shard"]
    with tarfile.open(shard["uri"]) as tar:
        member = tar.getmember(shard["image_member"])
        assert (member.offset_data, member.size) == (shard["image_offset"], shard["image_size"])
        assert tar.extractfile(member).read() == png(pair.number, pair.size)
    assert story.stages["index"]["sample_id"] == members[pair.uid]["sample_id"]
    json.dumps(story.stages, allow_nan=False)


@pytest.mark.parametrize(
    ("what", "last", "end"),
    [
        ("failed", "acquire", "it was not fetched: http_404"),
        ("brief", "curate", "curate dropped it: caption_words"),
        ("copies", "curate", "curate dropped it: duplicate_images"),
        ("undecodable", "shard", "no readable header"),
    ],
)
def test_a_pair_that_is_lost_on_the_way_says_where_and_why(asked, what, last, end):
    story = explain(asked.recipe, asked.pairs[what][0].uid)
    assert list(story.stages)[-1] == last
    assert end in story.end


def test_every_rule_that_failed_is_named_and_the_first_is_the_reason(asked):
    facts = explain(asked.recipe, asked.pairs["brief"][0].uid).stages["curate"]
    assert facts["failed"] == ["caption_words", "caption_characters"]
    assert facts["reason"] == facts["failed"][0]


def test_its_scores_are_told(asked):
    """Oracle: the score's own table, read by pyarrow."""
    tables = [
        pq.read_table(path).to_pylist()
        for path in Path(asked.recipe.root).glob("score/parts/*/scores.parquet")
    ]
    rows = {row["uid"]: row for table in tables for row in table}
    pair = asked.pairs["kept"][40]
    found = explain(asked.recipe, pair.uid).stages["score"]["language"]
    assert {**found, "uid": pair.uid} == {**rows[pair.uid], "model": found["model"]}
    assert found["language"]


def test_a_copy_names_its_keeper_and_the_keeper_its_copies(asked):
    (copy,) = asked.pairs["copies"]
    keeper = next(pair for pair in asked.pairs["kept"] if pair.number == 0)
    pair_of = {"uid": copy.uid, "keeper_uid": keeper.uid}
    told = [explain(asked.recipe, uid).stages["curate"]["groups"] for uid in (copy.uid, keeper.uid)]
    assert told[0] == told[1]
    assert [{name: row[name] for name in pair_of} for row in told[0]] == [pair_of]


def test_a_held_out_pair_ends_there(asked):
    uid = next(uid for uid, m in members_of(asked).items() if m["split"] == "selection")
    story = explain(asked.recipe, uid)
    assert "held out for choosing a checkpoint" in story.end
    assert story.stages["shard"]["split"] == "selection"


def test_an_unknown_uid_is_told_what_to_do(asked):
    uid = asked.pairs["kept"][7].uid
    with pytest.raises(DataError, match=rf"Did you mean .*{uid}.*neuclip query RECIPE"):
        explain(asked.recipe, uid[:-2] + ("00" if uid[-2:] != "00" else "11"))
    with pytest.raises(DataError, match=r"table.parquet has uid 0{32}\. `neuclip query"):
        explain(asked.recipe, "0" * 32)
    with pytest.raises(
        ConfigError, match=rf"is no uid, which has 32 hex digits. Did you mean .*{uid}"
    ):
        explain(asked.recipe, uid[:9])
    assert explain(asked.recipe, f" {uid.upper()}\n").uid == uid


def test_it_tells_as_far_as_the_stages_are_done(tmp_path):
    recipe, _ = make_recipe(tmp_path)
    with pytest.raises(ConfigError, match="acquire has not been done"):
        explain(recipe, "0" * 32)
    pairs = make_pairs()
    do_stages(recipe, pairs, ())
    story = explain(recipe, pairs["kept"][0].uid)
    assert list(story.stages) == ["acquire"]
    assert story.end == "score has not been done with this recipe: run `--only score`"


def test_clusters_and_signals_are_told(asked, tmp_path):
    """A training stage made by hand that kept per-sample statistics."""
    recipe, _ = make_recipe(tmp_path)
    pairs = make_pairs()
    do_stages(recipe, pairs)
    identity = identify(recipe)["train"]

    def train(workspace):
        rows = {"sample_id": range(30), "step": [9] * 30, "visits": range(30), "loss": [0.5] * 30}
        pq.write_table(pa.table(rows), workspace.output / "sample_statistics.parquet")
        return Outcome(make_ledger(1, 1, {}))

    commit_stage(identity, train)
    members = pq.read_table(f"{identify(recipe)['shard'].uri}/members.parquet").to_pylist()
    uid = next(m["uid"] for m in members if m["sample_id"] == 17)
    story = explain(recipe, uid)
    assert story.stages["train"]["sample_statistics"] == {
        "sample_id": 17,
        "step": 9,
        "visits": 17,
        "loss": 0.5,
    }
    assert story.end == ""
    from neuclip.query.sql import run_query

    found = run_query(
        recipe,
        "SELECT visits FROM sample_statistics JOIN samples USING (sample_id) WHERE sample_id = 3",
        limit=2,
    )
    assert found.rows == [[3]]


def test_the_command_tells_it_in_lines_and_as_one_object(asked):
    (pair,) = asked.pairs["steering"]
    answer = command(asked, "explain", pair.uid)
    assert answer.exit_code == 0
    assert [line for line in answer.stdout.splitlines() if line and not line.startswith(" ")][
        :5
    ] == [
        f"uid {pair.uid}",
        "acquire",
        "score",
        "curate",
        "caption",
    ]
    assert "\x1b[31m" not in answer.stdout
    told = answer.stdout.split("caption\n", 1)[1].split("shard\n", 1)[0]
    assert [line.split()[0] for line in told.splitlines() if line] == ["captions", *pair.captions]
    found = json.loads(command(asked, "explain", pair.uid, "--json").stdout)
    assert found["stages"]["caption"]["captions"] == pair.captions
    assert command(asked, "explain", "f" * 32).exit_code == 2
