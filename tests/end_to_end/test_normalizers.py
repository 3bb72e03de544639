"""Oracle: exact log-normalizers of a real checkpoint, and what the report promises of its rows."""

import json
import math

import pytest
from typer.testing import CliRunner

from neuclip.cli.main import app
from neuclip.stages.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test waits for the journey


@pytest.fixture
def checkpoint(journey):
    return sorted((journey.root / "train").glob("*/checkpoints/step-*"))[-1]


def call(*arguments):
    return CliRunner().invoke(app, ["normalizers", *map(str, arguments)])


def test_every_estimator_is_held_against_the_same_exact_values(journey, checkpoint, tmp_path):
    options = ["--batch", 16, "--batch", 32, "--share", 1, "--share", 0.5, "--out", tmp_path]
    done = call(checkpoint, *options, "--anchors", 50, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    count = read_manifest(journey.uri("index")).ledger.out
    rows = {(r["estimator"], r["global_batch"], r["num_samples"]): r for r in report["rows"]}
    assert len(rows) == len(report["rows"])
    assert {size for _, _, size in rows} == {count, round(count / 2)}
    names = {name for name, batch, size in rows if (batch, size) == (16, count)}
    assert {"mini-batch", "InfoNCE, implied", "FastCLIP, gamma 0.6"} < names
    assert ("neuclip, as trained", 32, count) in rows
    for row in report["rows"]:
        assert row["mse"] >= 0
        assert row["known"] == 1
        assert math.isfinite(row["bias"])
    # Features stand still here, so a queue of nearly all pairs is nearly exact.
    aged = next(
        r for (n, b, s), r in rows.items() if n.startswith("aged") and (b, s) == (16, count)
    )
    assert aged["mse"] < 0.1 * rows["mini-batch", 16, count]["mse"]
    assert json.loads((tmp_path / "normalizers.json").read_text()) == report
    assert "| mini-batch | 16 |" in (tmp_path / "normalizers.md").read_text()
    assert (tmp_path / "normalizers.svg").read_text().count("<svg") == 1
    again = json.loads(call(checkpoint, *options, "--anchors", 50, "--json").stdout)
    assert again == report


def test_a_table_for_people(checkpoint):
    done = call(checkpoint, "--batch", 16, "--share", 1, "--epochs", 0.5, "--anchors", 20)
    assert done.exit_code == 0, done.output
    assert "mini-batch" in done.stdout
    assert "exact log-normalizers" in done.stdout


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    done = call(tmp_path / "train" / "k" / "checkpoints" / "step-00000001")
    assert done.exit_code != 0
    assert "nothing was committed there, or its record is gone" in done.output
