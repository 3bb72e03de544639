"""Oracle: real pictures with the texts that people wrote for them; chance for the scores.

Some 2,500 of the training pairs; skipped where they do not lie beside the repository.
"""

import html
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from end_to_end.journeys import REPOSITORY, check_ledgers
from end_to_end.pairs_web import TABLE, repository_pairs, unpack, write_sets, write_table
from made.stages import NAMES

from neuclip.demo.server import serving
from neuclip.journey import run_journey
from neuclip.recipe import load_recipe
from neuclip.stages.manifest import read_manifest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not repository_pairs().is_dir(), reason="the pairs are not here"),
]

ROWS = 2500
TEST_ROWS = 400
CHANGES = {
    "acquire.partition_rows": 1250,
    "shard.samples_per_shard": 500,
    "train.epochs": 8,
    "train.save_every_steps": 50,
    "train.objective.estimator.restart_every": 20,
    "train.warmup_steps": 20,
}


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "web"
    unpack(repository_pairs(), folder)
    return folder


@pytest.fixture(scope="module")
def done(web, cache, tmp_path_factory):
    """The recipe, what each stage reported, and the number of rows."""
    pairs = repository_pairs()
    with pytest.MonkeyPatch.context() as environment, serving(web, 0) as server:
        environment.setenv("NEUCLIP_CACHE", str(cache))
        rows = write_table(pairs, web, port=server.server_port, most_rows=ROWS)
        sets = write_sets(pairs, web, most_rows=TEST_ROWS)
        places = {
            "root": str(tmp_path_factory.mktemp("pairs-lake")),
            "acquire.table": str(web / TABLE),
            "curate.decontaminate.sets": [str(folder) for folder in sets],
            "evaluate.sets": [str(folder) for folder in sets],
        }
        recipe = load_recipe(
            str(REPOSITORY / "infra" / "recipes" / "pairs.yaml"), {**CHANGES, **places}
        )
        return recipe, {report.stage: report for report in run_journey(recipe)}, rows


def test_every_pair_is_accounted_for(done):
    recipe, reports, rows = done
    assert list(reports) == list(NAMES)
    assert recipe.train.objective.name == "neuclip"
    ledgers = {n: r.manifest.ledger.model_dump(by_alias=True) for n, r in reports.items()}
    check_ledgers(ledgers)
    for name, ledger in ledgers.items():
        print(f"{name:10} {ledger} {reports[name].seconds} s")
    assert ledgers["acquire"]["in"] == rows
    assert 0.98 * ROWS < rows <= ROWS
    assert ledgers["acquire"]["out"] == rows  # every link leads to a picture
    assert ledgers["curate"]["out"] > 0.9 * rows


def test_both_sources_of_captions_travel(done):
    _, reports, rows = done
    by_source = read_manifest(reports["caption"].uri).summary["sources"]
    assert set(by_source) == {"alt", "extra"}
    out = reports["caption"].manifest.ledger.out
    assert by_source["alt"]["pairs"] == by_source["alt"]["texts"] == out
    assert 0.5 * rows < by_source["extra"]["pairs"] <= by_source["extra"]["texts"]
    for counts in by_source.values():
        assert counts.get("unusable", 0) == 0


def test_the_scores_are_above_chance(done):
    _, reports, _ = done
    for name, score in reports["evaluate"].manifest.summary.items():
        print(name, score)
    scores = _scores(reports)
    assert scores["groceries"]["main_value"] > 3 * scores["groceries"]["chance"]
    # The names of the emoji groups stand in no caption, so a run this small need not know them: printed alone.
    assert scores["emoji_retrieval"]["main_value"] > 3 * scores["emoji_retrieval"]["chance"]


def test_the_report_shows_pictures_with_their_captions(done, web):
    _, reports, _ = done
    page = (Path(reports["publish"].uri) / "report.html").read_text(encoding="utf-8")
    captions = {row["caption"] for row in pq.read_table(web / TABLE).to_pylist()}
    shown = {c for c in captions if len(c) > 8 and html.escape(c) in page}
    assert len(shown) >= 5
    assert page.count("data:image/jpeg;base64,") >= 20


def _scores(reports):
    rows = json.loads((Path(reports["evaluate"].uri) / "scores.json").read_bytes())
    for row in rows:
        print(row["set"], row["samples"], row["main_metric"], row["main_value"], row["chance"])
    return {row["set"]: row for row in rows}
