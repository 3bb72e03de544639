"""Oracle: pairs of which it is known how each was lost, found again, or taken down."""

import pytest
from made.fetched import commit_fetched, commit_retries
from made.tables import uid, write_table
from query.journeys import make_recipe

from neuclip.foundation.progress import silent
from neuclip.journey import identify, run_stage
from neuclip.query.explain import explain
from neuclip.query.sql import run_query
from neuclip.stages.revisions import revise
from neuclip.takedown.lists import Wanted
from neuclip.takedown.run import run_takedown

LOST = {1: "timeout", 2: "http_404", 3: "timeout", 8: "dns"}


@pytest.fixture(scope="module")
def repaired(tmp_path_factory):
    """Ten pairs in partitions of five: 1 is found again, 3 is gone for good the second time, 8 fails once more."""
    base = tmp_path_factory.mktemp("repaired")
    rows = [{"uid": uid(n), "url": f"http://a.org/{n}", "caption": f"pair {n}"} for n in range(10)]
    write_table(base / "urls.parquet", rows)
    changes = {
        "acquire.table": str(base / "urls.parquet"),
        "acquire.partition_rows": 5,
        "acquire.caption_columns": {},
    }
    recipe, _ = make_recipe(base, **changes)
    lost = {uid(number): reason for number, reason in LOST.items()}
    commit_fetched(recipe.acquire, recipe.root, failed_for=lost.get)
    before = run_stage(recipe, "acquire")
    again = {uid(3): "http_410", uid(8): "timeout"}
    commit_retries(recipe.acquire, recipe.root, failed_for=again.get)
    revise(f"{recipe.root}/acquire", before.key, "repair", {"retries": ["made"]})
    run_stage(recipe, "acquire")
    assert identify(recipe)["acquire"].key != before.key
    return recipe


def test_a_pair_that_was_repaired_tells_its_tries(repaired):
    story = explain(repaired, uid(1))
    acquired = story.stages["acquire"]
    assert [(tried["round"], tried["outcome"]) for tried in acquired["tries"]] == [
        (0, "timeout"),
        (1, "success"),
    ]
    assert (acquired["status"], acquired["file"], acquired["row"]) == ("success", "urls.parquet", 1)
    assert "rows_with_this_uid" not in acquired
    assert story.end.startswith("score has not been done")


def test_the_last_word_counts_and_says_what_may_help(repaired):
    gone, waiting = explain(repaired, uid(3)), explain(repaired, uid(8))
    assert "http_410" in gone.end
    assert "repair" not in gone.end
    assert "timeout" in waiting.end
    assert "`neuclip repair` tries again" in waiting.end
    assert explain(repaired, uid(7)).stages["acquire"]["row"] == 7


def test_the_view_of_rows_has_every_row_once(repaired):
    result = run_query(repaired, "SELECT uid, reason FROM rows ORDER BY uid", limit=100)
    words = {**LOST, 1: None, 3: "http_410", 8: "timeout"}
    assert result.rows == [[uid(n), words.get(n)] for n in range(10)]
    counted = run_query(repaired, "SELECT count(*) FROM rows WHERE status = 'success'", limit=1)
    assert counted.rows == [[7]]


def test_a_pair_that_was_taken_down_says_so(repaired):
    """A repaired row goes in both partitions that it stands in."""
    run_takedown(repaired.root, Wanted([uid(1)], [], []), progress=silent)
    report = run_stage(repaired, "acquire")
    assert report.manifest.ledger.dropped == {
        "http_404": 1,
        "http_410": 1,
        "taken_down": 1,
        "timeout": 1,
    }
    assert report.manifest.ledger.out == 6
    story = explain(repaired, uid(1))
    assert "was taken down" in story.end
    assert story.stages["acquire"]["url"] is None
