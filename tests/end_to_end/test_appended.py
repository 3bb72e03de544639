"""Oracle: the files of the first journey, byte for byte, and the rows of its index."""

import duckdb
import pyarrow.parquet as pq
import pytest
from end_to_end.conftest import Journey
from end_to_end.journeys import files_below
from made.demo_web import DEMO_RECIPE, SMALL

from neuclip.journey import identify, run_journey
from neuclip.loading.selection_split import read_selection_split
from neuclip.query.explain import explain
from neuclip.recipe import load_recipe
from neuclip.stages.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = ("acquire", "score", "curate", "caption", "shard", "index")
_ROWS = 150
"""Of the table's first file, which is one partition."""


def test_a_table_that_has_grown_keeps_its_ids(journey: Journey, tmp_path):
    """Must show 6, through acquire and all: a second file beside the first."""
    whole = pq.read_table(journey.web.table)
    table = tmp_path / "table"
    table.mkdir()
    recipe = load_recipe(
        DEMO_RECIPE,
        {
            **SMALL,
            "root": str(tmp_path / "lake"),
            "acquire.table": str(table),
            "evaluate.sets": [],
            "curate.decontaminate": None,
        },
    )
    pq.write_table(whole.slice(0, _ROWS), table / "a.parquet")
    before, files = _ids(recipe), files_below(tmp_path / "lake")

    pq.write_table(whole.slice(_ROWS), table / "b.parquet")
    after = _ids(recipe)
    assert before.items() <= after.items()
    assert len(after) > 1.5 * len(before)
    assert sorted(after.values()) == list(range(len(after)))
    now = files_below(tmp_path / "lake")
    assert {name: now[name] for name in files} == files
    new = {name.split("/")[0] for name in now.keys() - files.keys()}
    assert new >= {"acquire", "shard", "index"}
    summary = read_manifest(identify(recipe)["shard"].uri).summary
    assert (summary["reused_parts"], summary["new_parts"], summary["parts_given_up"]) == (1, 1, 0)
    assert read_manifest(identify(recipe)["index"].uri).summary["reused_parts"] == 1
    uris = {stage: identity.uri for stage, identity in identify(recipe).items()}
    assert len(read_selection_split(uris["shard"], uris["index"], max_samples=10_000)) > 1
    uid = max(after, key=lambda uid: after[uid])
    story = explain(recipe, uid)
    assert story.stages["acquire"]["file"] == "b.parquet"
    row = story.stages["acquire"]["row"]
    assert whole["url"][_ROWS + row].as_py() == story.stages["acquire"]["url"]


def _ids(recipe) -> dict[str, int]:
    run_journey(recipe, stages=STAGES)
    path = f"{identify(recipe)['index'].uri}/index.duckdb"
    with duckdb.connect(path, read_only=True) as connection:
        return dict(connection.execute("SELECT uid, sample_id FROM samples").fetchall())
