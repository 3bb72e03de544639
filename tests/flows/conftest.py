"""The Prefect server of the session, the web that its runs fetch from, and the overrides of a small run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made.demo_web import DEMO_RECIPE, demo_web
from servers.prefect_server import PrefectServer

from flows.recipes import RECIPES


@pytest.fixture(autouse=True)
def the_demos_recipe_is_permitted(monkeypatch):
    """For the flows that run in this process."""
    monkeypatch.setenv(RECIPES, f"infra/recipes,{Path(DEMO_RECIPE).parent}")


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Iterator[dict[str, Any]]:
    """Overrides of the demo's recipe: 400 pairs, served here, two epochs, everything below a temporary folder."""
    folder = tmp_path_factory.mktemp("small-run")
    fields = {
        "root": str(folder / "lake"),
        "acquire.partition_rows": 200,
        "acquire.processes": 1,
        "shard.samples_per_shard": 100,
        "train.objective": {
            "name": "neuclip",
            "estimator": {"name": "network", "num_prototypes": 64, "inner_steps": 1},
        },
        "train.global_batch": 32,
        "train.epochs": 2,
        "train.warmup_steps": 2,
        "train.save_every_steps": 12,
        "train.log_every_steps": 2,
        "train.loader.workers": 0,
        "train.probe": None,
    }
    with demo_web(folder / "web", pairs=400) as web:
        yield {**fields, **web.inputs}
