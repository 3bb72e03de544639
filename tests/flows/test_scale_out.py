"""Oracle: acquire by one download in this process, against real local clusters of Dask and Ray over the same table."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made.demo_web import DEMO_RECIPE, DemoWeb, demo_web
from made.fetched import commit_fetched
from prefect import flow
from prefect.testing.utilities import prefect_test_harness
from servers.prefect_server import free_port, wait_for
from servers.s3 import s3_bucket, s3_environment, s3_url

from flows.stages import STAGE_FLOWS
from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.shared import (
    Planned,
    Share,
    clear_plans,
    describe_limits,
    fetch_shares,
    for_one_of,
    hand_out,
    unfinished,
)
from neuclip.acquired.partitions import partition_folders, rows_paths, texts_paths
from neuclip.acquired.raw_images import RawImages
from neuclip.egress.config import EgressConfig
from neuclip.foundation.errors import ChildError, ConfigError
from neuclip.foundation.progress import silent
from neuclip.journey import identify, run_stage
from neuclip.recipe import load_recipe
from neuclip.stages.manifest import read_manifest
from neuclip.stages.scale import ScaleConfig
from neuclip.storage.files import list_files, write_bytes
from tasks.pool import pool_of
from tasks.runners import task_runner

__all__ = ["s3_bucket", "s3_environment", "s3_url"]

WORKERS = 2


@pytest.fixture(scope="module")
def prefect_here() -> Iterator[None]:
    """A Prefect server for flows that run in this process."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


class Lake:
    """A folder for roots, and recipes that fetch a web of the demo."""

    def __init__(self, folder: Path, web: DemoWeb, partition_rows: int) -> None:
        self.folder = folder
        self.overrides: dict[str, Any] = {
            "acquire.table": str(web.table),
            "acquire.partition_rows": partition_rows,
            "acquire.processes": 1,
            "evaluate.sets": [],
            "curate.decontaminate": None,
        }
        self.alone = self.at(str(folder / "alone"))

    def at(self, root: str, **scale: Any) -> dict[str, Any]:
        """Return the overrides of a recipe with another root."""
        told = {f"acquire.scale.{name}": value for name, value in scale.items()}
        return {**self.overrides, "root": root, **told}

    def fetch_alone(self) -> None:
        run_stage(load_recipe(DEMO_RECIPE, self.alone), "acquire")


@pytest.fixture(scope="module")
def large_lake(tmp_path_factory) -> Iterator[Lake]:
    """400 pairs in four partitions, fetched by the stage itself."""
    folder = tmp_path_factory.mktemp("large")
    with demo_web(folder / "web", pairs=400) as web:
        lake = Lake(folder, web, partition_rows=100)
        lake.fetch_alone()
        yield lake


@pytest.fixture(scope="module")
def small_lake(tmp_path_factory) -> Iterator[Lake]:
    """160 pairs in four partitions, fetched by the stage itself."""
    folder = tmp_path_factory.mktemp("small")
    with demo_web(folder / "web", pairs=160) as web:
        lake = Lake(folder, web, partition_rows=40)
        lake.fetch_alone()
        yield lake


def stage_uri(overrides: dict[str, Any]) -> str:
    return identify(load_recipe(DEMO_RECIPE, overrides))["acquire"].uri


def outcome(overrides: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Return the parts, and of every row in order its outcome and its stored bytes."""
    uri = stage_uri(overrides)
    found = []
    images = RawImages(partition_folders(uri))
    for number, paths in enumerate(zip(rows_paths(uri), texts_paths(uri), strict=True)):
        rows, texts = (pq.read_table(path).to_pylist() for path in paths)
        for row, told in zip(rows, texts, strict=True):
            is_there = row["status"] == "success"
            image = images.read({**row, "partition": number}) if is_there else b""
            names = ("uid", "url", "reason", "sha256", "width", "height")
            assert row["uid"] == told["uid"]
            assert told["captions"]
            texts_of_row = (dict(told["captions"]), dict(told["unusable"]))
            found.append(([row[name] for name in names], texts_of_row, image))
    return read_manifest(uri).parts, found


def no_plans_are_left(overrides: dict[str, Any]) -> bool:
    return not list_files(f"{overrides['root']}/acquire/plans")


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_cluster_has_the_same_result_as_one_machine(prefect_here, large_lake, tmp_path, runner):
    overrides = large_lake.at(str(tmp_path / "lake"), runner=runner, workers=WORKERS)
    (report,) = STAGE_FLOWS["acquire"](DEMO_RECIPE, overrides, only=True)
    assert report["state"] == "ran"
    assert outcome(overrides) == outcome(large_lake.alone)
    manifest = read_manifest(report["uri"])
    assert manifest.ledger.entered == 400
    assert manifest.summary["reused"] == 4, "the stage itself fetched what workers should have"
    assert no_plans_are_left(overrides)


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(1800)
def test_threads_have_the_same_result_and_a_second_run_does_nothing(
    prefect_here, small_lake, tmp_path
):
    overrides = small_lake.at(str(tmp_path / "lake"), runner="threads", workers=WORKERS)
    STAGE_FLOWS["acquire"](DEMO_RECIPE, overrides, only=True)
    assert outcome(overrides) == outcome(small_lake.alone)
    Path(stage_uri(overrides), "manifest.json").unlink()  # partitions are there, the stage is not
    STAGE_FLOWS["acquire"](DEMO_RECIPE, overrides, only=True)
    assert outcome(overrides) == outcome(small_lake.alone)
    (again,) = STAGE_FLOWS["acquire"](DEMO_RECIPE, overrides, only=True)
    assert again["state"] == "cached"
    before = {uri: read_manifest(uri).started_at for uri in partition_folders(again["uri"])}
    (forced,) = STAGE_FLOWS["acquire"](DEMO_RECIPE, overrides, only=True, force=True)
    assert forced["state"] == "ran"
    after = {uri: read_manifest(uri).started_at for uri in partition_folders(again["uri"])}
    assert before.keys() == after.keys()
    assert all(before[uri] < after[uri] for uri in before)


@pytest.fixture
def dask_cluster(tmp_path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler and two workers, each a program of its own; their address, and the workers."""
    address = f"tcp://127.0.0.1:{free_port()}"
    host, port = address.removeprefix("tcp://").split(":")
    log = (tmp_path / "dask.log").open("wb")

    def start(*words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    scheduler = ("distributed.cli.dask_scheduler", "--host", host, "--port", port, "--no-dashboard")
    worker = ("distributed.cli.dask_worker", address, "--host", host, "--nthreads", "1")
    alone = ("--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path))
    started = [start(*scheduler), *(start(*worker, *alone) for _ in range(WORKERS))]
    try:
        yield address, started[1:]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(1800)
def test_a_worker_that_dies_is_replaced_by_another(
    prefect_here, small_lake, tmp_path, dask_cluster, monkeypatch
):
    """Oracle: the whole result, although one of two workers is killed once a partition is committed."""
    address, workers = dask_cluster
    overrides = small_lake.at(str(tmp_path / "lake"), runner="dask", workers=WORKERS)
    recipe = tmp_path / "recipes" / "with-a-cluster.yaml"  # a caller of the flow could not name it
    recipe.parent.mkdir()
    recipe.write_text(
        load_recipe(DEMO_RECIPE, {**overrides, "acquire.scale.address": address}).to_yaml()
    )
    monkeypatch.setenv("NEUCLIP_RECIPES", str(recipe.parent))
    parts = Path(overrides["root"], "acquire/parts")

    def kill() -> None:
        wait_for(lambda: any(parts.glob("*/manifest.json")), seconds=300, name="a partition")
        os.killpg(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    STAGE_FLOWS["acquire"](str(recipe), {}, only=True)
    killer.join()
    assert workers[0].wait() == -signal.SIGKILL
    assert outcome(overrides) == outcome(small_lake.alone)


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.s3
@pytest.mark.timeout(1800)
def test_a_bucket_with_the_objects_of_an_unfinished_partition(
    prefect_here, small_lake, tmp_path, s3_bucket, monkeypatch
):
    """Oracle: files without a commit record are nobody's word, whatever they hold."""
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))
    overrides = small_lake.at(f"{s3_bucket}/lake", runner="dask", workers=WORKERS)
    parts, rows = outcome(small_lake.alone)
    for name in ("rows.parquet", "images.tar"):
        write_bytes(f"{s3_bucket}/lake/acquire/parts/{parts[0]}/{name}", b"half")
    STAGE_FLOWS["acquire"](DEMO_RECIPE, overrides, only=True)
    assert outcome(overrides) == (parts, rows)
    assert no_plans_are_left(overrides)


@pytest.mark.prefect
@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("runner", ["threads", "ray"])
def test_partitions_that_no_worker_fetched_are_named(prefect_here, tmp_path, runner):
    share = Share(1, str(tmp_path / "nowhere"), (Planned("0123abcd", "urls.parquet", 0, 5, 5),))
    config = AcquireConfig(table="urls.parquet", scale=ScaleConfig(runner=runner, workers=1))

    @flow
    def fetch() -> None:
        with pool_of(config) as pool:
            fetch_shares(
                [share], config, root=str(tmp_path), pool=pool, progress=silent, force=False
            )

    with pytest.raises(
        ChildError, match=r"1 of 1 partitions.*worker-1: cannot read.*0123abcd.*kept"
    ):
        fetch()


def test_partitions_are_shared_out_by_what_is_missing(tmp_path):
    """Oracle: every partition that is not committed is handed out once, and its planned rows wait at the root."""
    table = tmp_path / "urls.csv"
    lines = [f"http://127.0.0.1/{number}.png,picture {number}" for number in range(50)]
    table.write_text("\n".join(["url,caption", *lines]))
    root = str(tmp_path / "lake")
    config = AcquireConfig(
        table=str(table), partition_rows=5, scale=ScaleConfig(runner="dask", workers=3)
    )
    plan = {"root": root, "stage_key": "key", "progress": silent}
    shares = hand_out(config, force=False, **plan)
    assert [len(share.partitions) for share in shares] == [4, 3, 3]
    keys = {planned.key for share in shares for planned in share.partitions}
    assert len(keys) == 10
    planned = list_files(f"{root}/acquire/plans/key")
    assert set(planned) == {f"{key}.parquet" for key in keys}

    table.write_text("\n".join(["url,caption", *lines[:25]]))
    done = {manifest.key for manifest in commit_fetched(config, root)}
    table.write_text("\n".join(["url,caption", *lines]))
    rest = hand_out(config, force=False, **plan)
    assert {planned.key for share in rest for planned in share.partitions} == keys - done
    assert {
        key for share in shares for key in unfinished(share, root=root, force=False)
    } == keys - done
    everything = hand_out(config, force=True, **plan)
    assert sum(len(share.partitions) for share in everything) == 10
    clear_plans(everything)
    assert not list_files(f"{root}/acquire/plans")


def test_workers_share_the_limits_of_a_host_out():
    config = AcquireConfig(
        table="urls.csv", egress=EgressConfig(host_concurrency=4, host_requests_per_s=10)
    )
    one = for_one_of(config, 4)
    assert (one.egress.host_concurrency, one.egress.host_requests_per_s) == (1, 2.5)
    assert one.keyed() == config.keyed(), "the limits must not change what a partition is"
    assert "2.5 times a second and 1 at a time, all together 4 at a time" in describe_limits(
        config, 4
    )
    assert "8 at a time, more than acquire.egress.host_concurrency=4" in describe_limits(config, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_cluster_of_this_machine_listens_on_loopback_alone(runner):
    """Oracle: the sockets of its processes; whoever reaches one could run programs here."""
    code = f"""
import psutil
from tasks.runners import task_runner
from neuclip.stages.scale import ScaleConfig
if __name__ == "__main__":
    with task_runner(ScaleConfig(runner="{runner}", workers=1)) as runner:
        getattr(runner, "client", None)
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            for socket in process.net_connections(kind="inet"):
                if socket.status == "LISTEN":
                    print("listens on", socket.laddr.ip)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={name: v for name, v in os.environ.items() if not name.startswith("RAY_")},
        capture_output=True,
        text=True,
        check=True,
    )
    listening = [line for line in done.stdout.splitlines() if line.startswith("listens on")]
    assert len(listening) >= 2, done.stdout + done.stderr
    assert {line.rpartition(":")[2].rpartition(" ")[2] for line in listening} == {"127.0.0.1"}


def test_a_runner_that_is_not_installed_says_which_extra(monkeypatch):
    for name in ("dask", "ray"):
        monkeypatch.setitem(sys.modules, f"prefect_{name}.task_runners", None)
        with pytest.raises(ConfigError, match=rf"install neuclip\[{name}\]"):
            task_runner(ScaleConfig(runner=name))
