"""Captions that models write, as a flow: oracle are what the server was asked, and what its function says."""

import pyarrow.parquet as pq
import pytest
from made.demo_web import DEMO_RECIPE
from made.fetched import commit_fetched
from made.tables import uid, write_table
from prefect.testing.utilities import prefect_test_harness
from servers.chat_server import chat_server

from flows.stages import STAGE_FLOWS
from neuclip.journey import plan, run_stage
from neuclip.recipe import load_recipe

PAIRS = 24
STEPS = [
    {"kind": "rewrite", "source": "wordings", "model": "tiny", "texts": 2},
    {"kind": "describe", "model": "tiny"},
    {"kind": "fuse", "model": "tiny"},
]


@pytest.mark.prefect
def test_a_flow_has_models_write_and_a_second_one_asks_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUCLIP_RECIPES", str(tmp_path))
    rows = [
        {"uid": uid(n), "url": f"http://a.org/{n}", "caption": f"the number {n} in ink"}
        for n in range(PAIRS)
    ]
    with chat_server(tmp_path / "server", answers="tests.made.chat_answers:answer") as server:
        overrides = {
            "root": str(tmp_path / "lake"),
            "acquire.table": write_table(tmp_path / "urls.parquet", rows),
            "acquire.caption_columns": {},
            "acquire.partition_rows": 10,
            "evaluate.sets": [],
            "curate.decontaminate": None,
            "caption.generate": STEPS,
        }
        models = {"tiny": {"kind": "endpoint", "model": "tiny", "address": server.address}}
        path = tmp_path / "recipe.yaml"
        path.write_text(load_recipe(DEMO_RECIPE, {**overrides, "caption.models": models}).to_yaml())
        recipe = load_recipe(str(path))
        commit_fetched(recipe.acquire, recipe.root)
        for stage in ("acquire", "score", "curate"):
            run_stage(recipe, stage)
        [told] = [one.estimate for one in plan(recipe) if one.stage == "caption"]
        assert {source: cost["questions"] for source, cost in told.items()} == {
            "wordings": 2 * PAIRS,
            "vlm": PAIRS,
            "vecap": PAIRS,
        }
        with prefect_test_harness(server_startup_timeout=180):
            [first] = STAGE_FLOWS["caption"](str(path), only=True)
            asked = len(server.requests())
            [second] = STAGE_FLOWS["caption"](str(path), only=True)
        assert asked == 4 * PAIRS == len(server.requests())
        assert (first["state"], second["state"]) == ("ran", "cached")
    found = {}
    for row in pq.read_table(f"{first['uri']}/parts.parquet").to_pylist():
        part = tmp_path / "lake" / "caption" / "parts" / row["part"] / "texts.parquet"
        for text in pq.read_table(part).to_pylist():
            assert text["status"] == "ok"
            found[text["uid"], text["source"], text["k"]] = text["text"]
    for n in range(PAIRS):
        seen = found[uid(n), "vlm", 0]
        assert seen.startswith("a picture of what is called ")
        assert found[uid(n), "wordings", 1] == f"one can see the number {n} in ink"
        assert found[uid(n), "vecap", 0] == f"one can see the number {n} in ink with {seen}"
