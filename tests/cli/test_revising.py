"""Oracle: what stands on stdout, and what lies at the root afterwards."""

import json

import pytest
from made.tables import uid
from takedown.conftest import PAIRS, make_lake
from typer.testing import CliRunner

from neuclip.cli.main import app
from neuclip.journey import run_stage

runner = CliRunner()


def invoke(*words):
    return runner.invoke(app, list(words))


@pytest.fixture
def lake(tmp_path):
    """Acquire alone is done; the recipe lies in a file."""
    lake = make_lake(tmp_path)
    run_stage(lake.recipe, "acquire")
    (tmp_path / "recipe.yaml").write_text(lake.recipe.to_yaml())
    return lake


def test_a_takedown_by_recipe_prints_its_report_and_another_by_root_finds_nothing(lake, tmp_path):
    (tmp_path / "hosts.txt").write_text("bad.example.org\nother.example.org\n")
    words = ("takedown", str(tmp_path / "recipe.yaml"), "--hosts", str(tmp_path / "hosts.txt"))
    trial = invoke(*words, "--dry-run")
    assert "3 rows and 3 images would go, nothing was changed" in trial.stdout
    result = invoke(*words)
    assert result.exit_code == 0, result.stderr
    assert "3 rows taken down, 3 images erased" in result.stdout
    assert "not found at this root, refused from now on (1):\n  other.example.org" in result.stdout
    result = invoke("takedown", str(lake.root), "--hosts", str(tmp_path / "hosts.txt"), "--json")
    report = json.loads(result.stdout)
    assert (report["rows"], report["records"]) == (0, [])
    assert report["taken_down_before"] == ["bad.example.org", "other.example.org"]


def test_what_was_made_with_the_pairs_is_a_table(lake, tmp_path):
    for stage in ("score", "curate", "caption"):
        run_stage(lake.recipe, stage)
    (tmp_path / "uids.txt").write_text(f"{uid(1)}\n")
    result = invoke("takedown", str(lake.root), "--uids", str(tmp_path / "uids.txt"))
    assert result.exit_code == 0, result.stderr
    rows = [line.split()[:3] for line in result.stdout.splitlines()]
    for cells in (
        ["score", "1", "numbers"],
        ["curate", "1", "verdicts,"],
        ["caption", "1", "nothing:"],
    ):
        assert rows.count(cells) == 1
    report = json.loads(
        invoke("takedown", str(lake.root), "--uids", str(tmp_path / "uids.txt"), "--json").stdout
    )
    stays = {place["stage"]: place["stays"] for place in report["contained"]}
    assert stays["curate"] == "verdicts, which name uids alone"
    assert stays["caption"] == "nothing: the texts were erased"
    assert "Weights cannot be made to forget" in result.stdout.replace("\n", " ")


def test_a_wrong_list_and_a_wrong_root_end_with_2(lake, tmp_path):
    (tmp_path / "uids.txt").write_text("twelve\n")
    result = invoke("takedown", str(lake.root), "--uids", str(tmp_path / "uids.txt"), "--json")
    assert result.exit_code == 2
    assert "'twelve'" in json.loads(result.stdout)["error"]["message"]
    assert invoke("takedown", str(tmp_path / "laek")).exit_code == 2


def test_a_repair_with_nothing_to_do_says_so(tmp_path):
    lake = make_lake(tmp_path, failed={4: "http_404"})
    run_stage(lake.recipe, "acquire")
    (tmp_path / "recipe.yaml").write_text(lake.recipe.to_yaml())
    result = invoke("repair", str(tmp_path / "recipe.yaml"))
    assert result.exit_code == 0, result.stderr
    assert "nothing to repair" in result.stdout
    result = invoke("repair", str(tmp_path / "recipe.yaml"), "--json")
    answer = json.loads(result.stdout)
    assert answer["repair"] == {"tried": 0, "fetched": 0, "failed": {}, "retries": []}
    assert answer["acquire"]["ledger"] == {
        "in": PAIRS,
        "out": PAIRS - 1,
        "dropped": {"http_404": 1},
    }


def test_a_repair_before_acquire_says_what_to_run(tmp_path):
    lake = make_lake(tmp_path)
    (tmp_path / "recipe.yaml").write_text(lake.recipe.to_yaml())
    result = invoke("repair", str(tmp_path / "recipe.yaml"))
    assert result.exit_code == 2
    assert "run `--only acquire` first" in result.stderr
