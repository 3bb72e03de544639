"""The Prefect server of the session, and the overrides of a small run."""

from collections.abc import Iterator
from typing import Any

import pytest
from servers.prefect_server import PrefectServer, free_port


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> dict[str, Any]:
    """Overrides of the demo recipe: 400 pairs, two epochs, everything below a temporary folder."""
    folder = tmp_path_factory.mktemp("small-run")
    names = ("wds_scenes_shapes", "wds_scenes_retrieval")
    sets = [str(folder / "web/evaluation" / name) for name in names]
    return {
        "root": str(folder / "lake"),
        "demo.folder": str(folder / "web"),
        "demo.pairs": 400,
        "demo.evaluation_scenes": 60,
        "demo.port": free_port(),
        "acquire.table": str(folder / "web/urls.parquet"),
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
        "curate.decontaminate.sets": sets,
        "evaluate.sets": sets,
    }
