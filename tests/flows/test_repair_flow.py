"""Oracle: what lies at the root before and after."""

import pytest
from made.demo_web import DEMO_RECIPE
from made.fetched import commit_fetched
from made.tables import uid, write_table
from prefect.testing.utilities import prefect_test_harness

from flows.repair import repair
from neuclip.journey import run_stage
from neuclip.recipe import load_recipe


@pytest.mark.prefect
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_flow_repairs_what_can_be_and_shows_acquire(tmp_path):
    """Nothing failed for the moment, so nothing is fetched, and acquire stays done."""
    rows = [{"uid": uid(n), "url": f"http://a.org/{n}", "caption": "c"} for n in range(4)]
    overrides = {
        "root": str(tmp_path / "lake"),
        "acquire.table": write_table(tmp_path / "urls.parquet", rows),
        "acquire.caption_columns": {},
        "acquire.max_failed_share": 0.5,
        "evaluate.sets": [],
        "curate.decontaminate": None,
    }
    recipe = load_recipe(DEMO_RECIPE, overrides)
    commit_fetched(recipe.acquire, recipe.root, failed_for={uid(1): "http_404"}.get)
    before = run_stage(recipe, "acquire")
    with prefect_test_harness(server_startup_timeout=180):
        answer = repair(DEMO_RECIPE, overrides)
    assert answer["repair"]["tried"] == 0
    assert answer["stages"] == [
        {"stage": "acquire", "key": before.key, "uri": before.uri, "state": "cached"}
    ]
