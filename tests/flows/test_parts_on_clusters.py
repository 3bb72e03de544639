"""Parts by threads, Dask and Ray. Oracle: the same stages done one part after the other in this process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from evaluation.test_run import classification_set, labelled
from made import part_tasks
from made.committed import commit_by_hand
from made.demo_web import DEMO_RECIPE
from made.ready import Sample, write_ready
from prefect import flow
from prefect.testing.utilities import prefect_test_harness
from servers.prefect_server import free_port
from towers.tiny import COLOURS, tiny_towers

from flows.stages import STAGE_FLOWS
from neuclip.foundation.errors import ChildError, ConfigError
from neuclip.foundation.progress import silent
from neuclip.journey import identify, run_stage
from neuclip.recipe import load_recipe
from neuclip.scoring.config import ScoringConfig
from neuclip.stages.manifest import read_manifest
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.scale import ScaleConfig
from neuclip.stages.workspace import StageIdentity
from neuclip.storage.files import sha256_of
from neuclip.towers.files import WEIGHTS_FILE
from neuclip.towers.folder import save_towers
from tasks.pool import pool_of

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(1800)]

TESTS = str(Path(part_tasks.__file__).parents[1])
RUNNERS = ("threads", "dask", "ray")
SCALED = ("acquire", "score", "shard", "index", "evaluate")
STAGES = ("acquire", "score", "curate", "caption", "shard", "index", "evaluate")


@pytest.fixture(scope="module", autouse=True)
def prefect_here() -> Iterator[None]:
    """A Prefect server for flows that run in this process."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Any]:
    """Shards, a model, two evaluation sets, and the overrides of a recipe that adopts, scores and evaluates by them."""
    base = tmp_path_factory.mktemp("inputs")
    save_towers(tiny_towers(), base / "model")
    members = [part for n, colour in enumerate(COLOURS) for part in labelled(colour, n)]
    sets = [
        classification_set(base, members, name=f"wds_{name}_test") for name in ("first", "second")
    ]
    for number in range(3):
        samples = [Sample(n) for n in range(20 * number, 20 * number + 20)]
        write_ready(base / "ready", f"{number:05d}", samples)
    model = str(base / "model")
    return {
        "acquire.table": None,
        "acquire.adopt": str(base / "ready"),
        "acquire.caption_columns": {},
        "score": {
            "scores": [
                {"kind": "phash"},
                {"kind": "clip_score", "model": model},
                {"kind": "embedding", "model": model},
            ]
        },
        "curate": {
            "rules": [{"kind": "caption_words", "min": 2}],
            "decontaminate": {"sets": sets[:1]},
        },
        "shard": {"samples_per_shard": 5, "selection_share": 0.2, "pairs_per_part": 12},
        "index.features": {"model": model},
        "evaluate.sets": sets,
    }


def prepare(overrides: dict[str, Any]) -> None:
    """Commit the model that is evaluated, by hand."""
    recipe = load_recipe(DEMO_RECIPE, overrides)
    ids = identify(recipe)
    chosen = Path(ids["select"].uri)
    save_towers(tiny_towers(), chosen / "model")
    summary = {"model_sha256": sha256_of(str(chosen / "model" / WEIGHTS_FILE))}
    commit_by_hand(chosen, "select", summary=summary)


def content(root: Path) -> dict[str, bytes]:
    """Return what the stages left; manifests and the index's own file tell times."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for stage in SCALED
        for path in sorted((root / stage).rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "index.duckdb")
    }


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes."""
    root = tmp_path_factory.mktemp("alone")
    overrides = {**inputs, "root": str(root)}
    prepare(overrides)
    for stage in STAGES:
        run_stage(load_recipe(DEMO_RECIPE, overrides), stage)
    return content(root)


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_bytes_are_those_of_one_process(inputs, alone, tmp_path, runner):
    scales = {f"{stage}.scale": {"runner": runner, "workers": 2} for stage in SCALED}
    overrides = {**inputs, **scales, "root": str(tmp_path / "lake")}
    prepare(overrides)
    done = [STAGE_FLOWS[stage](DEMO_RECIPE, overrides, only=True)[0] for stage in STAGES]
    assert {report["state"] for report in done} == {"ran"}
    found = content(tmp_path / "lake")
    assert found.keys() == alone.keys()
    assert [name for name in found if found[name] != alone[name]] == []
    rooms = [name.split("/")[:2] for name in found]
    assert {stage for stage, folder in rooms if folder == "parts"} == set(SCALED)
    again = [STAGE_FLOWS[stage](DEMO_RECIPE, overrides, only=True)[0] for stage in SCALED]
    assert {report["state"] for report in again} == {"cached"}


def part(root: Path, key: str, work: Any = None) -> Part:
    identity = StageIdentity("made", 1, key, {}, {}, str(root), part=True)
    return Part(identity, work or partial(part_tasks.write, key), note=f"making {key}")


@flow
def make(parts: list[Any], runner: str, gpus: float = 0, address: str | None = None) -> None:
    scale = ScaleConfig(runner=runner, workers=2, gpus=gpus, address=address)
    with pool_of(ScoringConfig(scale=scale)) as pool:
        do_parts(parts, pool=pool, progress=silent)


def begun(root: Path) -> dict[str, str]:
    folders = (root / "made/parts").glob("*/manifest.json")
    return {path.parent.name: read_manifest(str(path.parent)).started_at for path in folders}


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_part_whose_worker_is_killed_is_named_and_done_the_next_time(
    tmp_path, runner, monkeypatch
):
    """It kills every worker that takes it; all other parts are kept."""
    monkeypatch.setenv("PYTHONPATH", TESTS)
    enough = tmp_path / "memory"
    deadly = partial(part_tasks.write_once_there_is, str(enough), "x")
    parts = [*(part(tmp_path, key) for key in "abcd"), part(tmp_path, "x", deadly)]
    with pytest.raises(ChildError) as told:
        make(parts, runner)
    message = str(told.value)
    assert message.startswith("1 of 5 parts are not done: made-x: ")
    assert "The others are kept: run again" in message
    assert "\n" not in message
    print(f"{runner}: {message}")
    before = begun(tmp_path)
    assert set(before) == set("abcd")
    processes = {read_manifest(f"{tmp_path}/made/parts/{key}").summary["process"] for key in "abcd"}
    assert os.getpid() not in processes
    enough.write_text("there is")
    make(parts, runner)
    after = begun(tmp_path)
    assert set(after) == set("abcdx")
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_gpus_that_nobody_has_are_refused(tmp_path, runner):
    with pytest.raises(ConfigError, match=r"scale.gpus=99 for each part, and no worker"):
        make([part(tmp_path, "a")], runner, gpus=99)


@pytest.fixture
def mortal_workers(tmp_path) -> Iterator[str]:
    """A scheduler and two workers that nobody begins again, each a program of its own; the scheduler's address."""
    host, port = "127.0.0.1", str(free_port())
    log = (tmp_path / "dask.log").open("wb")

    def start(*words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": TESTS},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    address = f"tcp://{host}:{port}"
    scheduler = ("distributed.cli.dask_scheduler", "--host", host, "--port", port, "--no-dashboard")
    worker = ("distributed.cli.dask_worker", address, "--host", host, "--nthreads", "1")
    alone = ("--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path))
    started = [start(*scheduler), *(start(*worker, *alone) for _ in range(2))]
    try:
        yield address
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def test_a_cluster_that_has_lost_all_workers_is_not_waited_for(
    tmp_path, mortal_workers, monkeypatch
):
    monkeypatch.setattr("tasks.runners._WITHOUT_WORKERS_S", 10.0)
    deadly = partial(part_tasks.write_once_there_is, str(tmp_path / "nowhere"), "x")
    parts = [*(part(tmp_path, key) for key in "abcd"), part(tmp_path, "x", deadly)]
    with pytest.raises(ChildError, match=r"not done: made-x: .*has lost all of its workers"):
        make(parts, "dask", address=mortal_workers)
    assert set(begun(tmp_path)) == set("abcd")
