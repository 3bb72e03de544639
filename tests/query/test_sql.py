"""Oracles: the pairs made by hand, pyarrow on the committed tables, and the bytes on the disk."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.demo_web import DEMO_RECIPE
from query.journeys import STEERING, do_stages, make_pairs, make_recipe
from typer.testing import CliRunner

from neuclip.cli.main import app
from neuclip.foundation.errors import ConfigError, NeuclipError
from neuclip.query.sql import run_query


def ask(asked, statement, limit=1000):
    result = run_query(asked.recipe, statement, limit=limit)
    assert not result.is_cut
    return result.rows


def digests(root):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(root).rglob("*")
        if path.is_file()
    }


def test_every_view_holds_what_was_committed(asked):
    everyone = [pair for group in asked.pairs.values() for pair in group]
    assert {tuple(row) for row in ask(asked, "SELECT uid, status FROM rows")} == {
        (pair.uid, "failed" if pair.failed else "success") for pair in everyone
    }
    verdicts = pq.read_table(f"{asked.uris['curate']}/verdicts.parquet").to_pylist()
    found = ask(asked, "SELECT uid, kept, reason, failed FROM verdicts")
    assert sorted(found) == sorted(
        [[v["uid"], v["kept"], v["reason"], v["failed"]] for v in verdicts]
    )
    members = pq.read_table(f"{asked.uris['shard']}/members.parquet").to_pylist()
    train = {m["uid"]: m["sample_id"] for m in members if m["split"] == "train"}
    assert dict(ask(asked, "SELECT uid, sample_id FROM samples")) == train
    assert {
        uid: (dict(captions), dict(unusable))
        for uid, captions, unusable in ask(asked, "SELECT uid, captions, unusable FROM texts")
    } == {pair.uid: (pair.captions, pair.unusable) for pair in everyone}
    kept = {v["uid"] for v in verdicts if v["kept"]}
    assert len(kept) == len(members) + 1  # one has no picture
    found = ask(asked, "SELECT uid, source, k, text, status FROM captions")
    assert sorted(map(tuple, found)) == sorted(
        (pair.uid, source, k, text, "ok")
        for pair in everyone
        if pair.uid in kept
        for source, texts in pair.captions.items()
        for k, text in enumerate(texts)
    )
    assert "captions" not in _columns(asked, "rows")
    for view in ("features", "clusters", "sample_statistics"):
        assert ask(asked, f"SELECT count(*) FROM {view}") == [[0]]


def _columns(asked, view):
    return run_query(asked.recipe, f"SELECT * FROM {view}", limit=1).columns


def test_views_can_be_joined_and_rules_named(asked):
    statement = """
        SELECT reason, count(*) FROM rules JOIN verdicts ON failed >> bit & 1 = 1 GROUP BY ALL ORDER BY ALL"""
    with pytest.raises(ConfigError, match="Ambiguous reference"):
        ask(asked, statement)
    counted = dict(ask(asked, statement.replace("SELECT reason", "SELECT rules.reason")))
    brief = asked.pairs["brief"][0]
    failed = ask(asked, f"SELECT failed FROM verdicts WHERE uid = '{brief.uid}'")[0][0]
    assert bin(failed).count("1") == 2
    assert sorted(counted.values()) == [1, 1, 1]


def test_all_that_writes_is_refused_and_changes_nothing(asked, tmp_path):
    index = f"{asked.uris['index']}/index.duckdb"
    verdicts = f"{asked.uris['curate']}/verdicts.parquet"
    before = digests(asked.recipe.root)
    for statement in (
        "DELETE FROM samples",
        "INSERT INTO samples SELECT * FROM samples",
        "UPDATE samples SET width = 1",
        "DROP VIEW samples",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1; DROP VIEW samples",
        f"COPY samples TO '{tmp_path}/stolen.csv'",
        f"ATTACH '{tmp_path}/new.duckdb'",
        "SET enable_external_access = true",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "WITH x AS (DELETE FROM sample_index.samples RETURNING *) SELECT * FROM x",
        "WITH x AS (INSERT INTO sample_index.clusters VALUES (1, 'm', 1) RETURNING *) SELECT * FROM x",
        f"WITH x AS (COPY (SELECT 1) TO '{index}' (FORMAT csv, USE_TMP_FILE false)) SELECT * FROM x",
        f"WITH x AS (COPY (SELECT 1) TO '{verdicts}' (USE_TMP_FILE false)) SELECT 1 FROM verdicts",
        f"WITH x AS (COPY (SELECT 1) TO '{tmp_path}/new.csv' (USE_TMP_FILE false)) SELECT * FROM x",
    ):
        with pytest.raises(NeuclipError, match=r"SELECT|only the views|DuckDB refuses"):
            ask(asked, statement)
        assert digests(asked.recipe.root) == before, statement
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "source",
    [
        "read_text('/etc/passwd')",
        "'/etc/passwd'",
        "glob('/*')",
        "read_csv('/etc/passwd')",
        "read_blob('{index}')",
        "read_parquet('{verdicts}')",
    ],
)
def test_no_file_beside_the_views_is_read(asked, source):
    source = source.format(
        index=f"{asked.uris['index']}/index.duckdb",
        verdicts=f"{asked.uris['curate']}/verdicts.parquet",
    )
    with pytest.raises(NeuclipError, match=r"only the views rows, texts, verdicts|does not exist"):
        ask(asked, f"SELECT * FROM {source}")


def test_python_s_own_tables_are_not_seen(asked):
    mine = pq.read_table(f"{asked.uris['curate']}/verdicts.parquet")
    assert mine.num_rows
    with pytest.raises(ConfigError, match="mine does not exist"):
        ask(asked, "SELECT * FROM mine")


def test_an_unknown_table_gets_the_list_of_views(asked):
    with pytest.raises(
        ConfigError, match=r"Did you mean 'samples'\? Views: rows, texts, verdicts, rules"
    ):
        ask(asked, "SELECT * FROM sample")
    with pytest.raises(ConfigError, match="the statement is not SQL"):
        ask(asked, "SELEC 1")
    with pytest.raises(ConfigError, match="found nothing"):
        ask(asked, "  ")


def test_a_stage_that_is_not_done_is_named(tmp_path):
    recipe, _ = make_recipe(tmp_path)
    with pytest.raises(ConfigError, match=r"view rows is there when stage acquire has been done"):
        run_query(recipe, "SELECT * FROM rows", limit=1)
    do_stages(recipe, make_pairs(), ("score", "curate"))
    assert run_query(recipe, "SELECT count(*) FROM verdicts", limit=1).rows == [[54]]
    with pytest.raises(
        ConfigError, match=r"--only index`. Views now: rows, texts, verdicts, rules"
    ):
        run_query(recipe, "SELECT * FROM samples", limit=1)


def command(asked, *words):
    changes = [part for n, v in asked.fields.items() for part in ("--set", f"{n}={json.dumps(v)}")]
    return CliRunner().invoke(app, [words[0], DEMO_RECIPE, *words[1:], *changes])


def test_the_command_prints_rows_or_one_object(asked):
    statement = "SELECT text, 'nan'::DOUBLE AS x, DATE '2026-01-02' AS day FROM captions"
    answer = command(asked, "query", statement, "--json", "--limit", "3")
    found = json.loads(answer.stdout)
    assert answer.stdout.count("\n") == 1
    assert (found["columns"], len(found["rows"]), found["is_cut"]) == (
        ["text", "x", "day"],
        3,
        True,
    )
    assert found["rows"][0][1:] == ["nan", "2026-01-02"]
    steered = command(asked, "query", f"{statement} WHERE text LIKE '%terminal%'")
    assert steered.exit_code == 0
    assert "\x1b[31m" not in steered.stdout
    assert "\\x1b" in steered.stdout
    whole = command(asked, "query", f"{statement} WHERE text LIKE '%terminal%'", "--json")
    assert json.loads(whole.stdout)["rows"][0][0] == STEERING
    refused = command(asked, "query", "DROP VIEW samples", "--json")
    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["error"]["kind"] == "ConfigError"
