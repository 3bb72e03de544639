"""The deployments of prefect.yaml on a real server: oracle are Prefect's API and the manifests on disk."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launching.namespaces import machines
from made.demo_web import DEMO_RECIPE
from made.stages import NAMES
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from servers.prefect_server import PrefectServer, descendants, wait_for

from neuclip.foundation.errors import ConfigError, DataError, TransientStorageError
from neuclip.recipe import load_recipe
from neuclip.stage_list import NAMES as ALL
from tasks.stage import do_stage

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(600)]


def manifests(small_run: dict[str, Any]) -> dict[str, dict[Path, bytes]]:
    """Return stage -> the manifests of its keys, as they are on disk."""
    root = Path(small_run["root"])
    return {
        stage: {path: path.read_bytes() for path in root.glob(f"{stage}/*/manifest.json")}
        for stage in NAMES
    }


@pytest.fixture(scope="module")
def journey(server: PrefectServer, small_run) -> str:
    """Run the pipeline; return the run's id."""
    run_id = server.begin("pipeline/neuclip", recipe=DEMO_RECIPE, overrides=small_run)
    state = server.end_of(run_id)
    assert state["type"] == "COMPLETED", state["message"]
    return run_id


def stage_artifacts(server: PrefectServer, run_id: str) -> dict[str, dict[str, Any]]:
    return server.artifacts(run_id, *(run["id"] for run in server.runs_below(run_id)))


def states(artifacts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return stage -> ran or cached, as the summaries say."""
    summaries = (a["description"] for key, a in artifacts.items() if key.endswith("-summary"))
    return dict(text.split() for text in summaries)


def test_all_deployments_take_recipe_overrides_and_force(server: PrefectServer):
    assert len(server.find("deployments")) == len(ALL) + 2  # the pipeline, and repair
    for name in ("pipeline", *ALL):
        deployment = server.get(f"/deployments/name/{name}/neuclip")
        schema = deployment["parameter_openapi_schema"]
        expected = ["recipe", "overrides", "force"] + ["only"] * (name != "pipeline")
        assert list(schema["properties"]) == expected
        assert schema["required"] == ["recipe"]
        assert deployment["parameters"]["recipe"] == "infra/recipes/cc3m-neuclip.yaml"
        assert deployment["work_pool_name"] == "neuclip"


def test_the_pipelines_schedule_is_there_and_paused(server: PrefectServer):
    [schedule] = server.get("/deployments/name/pipeline/neuclip")["schedules"]
    assert schedule["schedule"]["cron"] == "0 3 * * *"
    assert schedule["active"] is False


def test_the_pipeline_does_all_stages_in_order_and_shows_them(
    server: PrefectServer, small_run, journey
):
    below = sorted(server.runs_below(journey), key=lambda run: run["start_time"])
    assert [run["parameters"]["only"] for run in below] == [True] * len(NAMES)
    artifacts = stage_artifacts(server, journey)
    assert states(artifacts) == dict.fromkeys(NAMES, "ran")
    for stage in NAMES:
        [manifest] = (json.loads(text) for text in manifests(small_run)[stage].values())
        ledger = manifest["ledger"]
        rows = {
            row["what"]: row["count"] for row in json.loads(artifacts[f"{stage}-ledger"]["data"])
        }
        dropped = {f"dropped: {reason}": count for reason, count in ledger["dropped"].items()}
        assert rows == {"in": ledger["in"], "out": ledger["out"], **dropped}
        assert manifest["files"][0]["sha256"][:12] in artifacts[f"{stage}-summary"]["data"]
    for stage in ("acquire", "train"):
        assert artifacts[f"{stage}-progress"]["data"] == 100


def test_what_neuclip_logs_is_read_in_prefect(server: PrefectServer, small_run, journey):
    ids = [run["id"] for run in server.runs_below(journey)]
    query = {"logs": {"flow_run_id": {"any_": ids}}, "limit": 200}
    folders = {str(path.parent) for keys in manifests(small_run).values() for path in keys}

    def committed() -> bool:
        lines = [log["message"] for log in server.find("logs", query)]
        return folders <= {line.split()[1].rstrip(":") for line in lines if "committed " in line}

    wait_for(committed, seconds=30, name="a log line of each stage")


def test_a_single_stage_with_another_threshold_redoes_it_and_what_lies_below(
    server: PrefectServer, small_run, journey
):
    before = manifests(small_run)
    changed = {**small_run, "curate.rules.caption_words.min": 3}
    run_id = server.begin("curate/neuclip", recipe=DEMO_RECIPE, overrides=changed)
    state = server.end_of(run_id)
    assert state["type"] == "COMPLETED", state["message"]
    after = manifests(small_run)
    above, below = NAMES[: NAMES.index("curate")], NAMES[NAMES.index("curate") :]
    for stage in above:
        assert after[stage] == before[stage], stage
    for stage in below:
        assert len(after[stage]) == len(before[stage]) + 1, stage
        assert before[stage].items() <= after[stage].items()
    assert states(server.artifacts(run_id)) == dict.fromkeys(below, "ran")

    run_id = server.begin("curate/neuclip", recipe=DEMO_RECIPE, overrides=changed, only=True)
    assert server.end_of(run_id)["type"] == "COMPLETED"
    assert states(server.artifacts(run_id)) == {"curate": "cached"}
    assert manifests(small_run) == after


def test_a_wrong_override_fails_with_the_command_lines_message_before_anything_runs(
    server: PrefectServer, small_run
):
    wrong = {**small_run, "train.epoch": 3, "curate.rules.caption_words.min": "many"}
    with pytest.raises(ConfigError) as error:
        load_recipe(DEMO_RECIPE, wrong)
    run_id = server.begin("pipeline/neuclip", recipe=DEMO_RECIPE, overrides=wrong)
    state = server.end_of(run_id)
    assert state["type"] == "FAILED"
    assert str(error.value) in state["message"]
    assert not server.runs_below(run_id)
    assert not server.find("task_runs", {"task_runs": {"flow_run_id": {"any_": [run_id]}}})


@pytest.mark.parametrize(
    ("recipe", "override", "told"),
    [
        (
            DEMO_RECIPE,
            {"train.launch.hosts.connect": ["touch", "evil"]},
            "cannot change train.launch",
        ),
        (
            DEMO_RECIPE,
            {"acquire.scale.address": "tcp://h:1"},
            "cannot change acquire.scale.address",
        ),
        (
            DEMO_RECIPE,
            {"acquire.table": "http://127.0.0.1/a.csv"},
            "storage protocol 'http' is not",
        ),
        ("/etc/shadow", {}, "in no folder that this deployment allows"),
    ],
)
def test_what_a_caller_may_not_ask_for_fails_before_anything_runs(
    server: PrefectServer, small_run, recipe, override, told
):
    run_id = server.begin("train/neuclip", recipe=recipe, overrides={**small_run, **override})
    state = server.end_of(run_id)
    assert state["type"] == "FAILED"
    assert told in state["message"]
    assert not server.find("task_runs", {"task_runs": {"flow_run_id": {"any_": [run_id]}}})


def test_progress_moves_while_training_and_cancelling_leaves_no_process(
    server: PrefectServer, small_run, journey
):
    endless = {
        **small_run,
        "train.epochs": 5000,
        "train.save_every_steps": 100000,
        "train.loader.workers": 1,
    }
    run_id = server.begin("train/neuclip", recipe=DEMO_RECIPE, overrides=endless)

    def begun() -> bool:
        shown = server.artifacts(run_id).get("train-progress")
        return shown is not None and 0 < shown["data"] < 100

    wait_for(begun, seconds=180, name="progress of training")
    first = server.artifacts(run_id)["train-progress"]["data"]
    wait_for(
        lambda: server.artifacts(run_id)["train-progress"]["data"] > first,
        seconds=60,
        name="more progress of training",
    )
    running = descendants(server.worker.pid)
    assert [command for command in running.values() if "neuclip.training.worker" in command]
    server.cli("flow-run", "cancel", run_id)
    assert server.end_of(run_id)["type"] == "CANCELLED"
    wait_for(
        lambda: not [pid for pid, command in running.items() if _command(pid) == command],
        seconds=60,
        name="the end of all processes of the run",
    )


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture
def connected(server: PrefectServer, tmp_path):
    """Let this process, too, talk to the server."""
    settings = {
        PREFECT_API_URL: server.api_url,
        PREFECT_HOME: tmp_path,
        PREFECT_LOGGING_TO_API_ENABLED: False,
    }
    with temporary_settings(settings):
        yield


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(("error", "calls"), [(TransientStorageError, 2), (DataError, 1)])
def test_only_transient_errors_are_tried_again(monkeypatch, error, calls):
    seen = []

    def fail_once(recipe, stage, **_: Any) -> str:
        seen.append(stage)
        if len(seen) == 1:
            raise error("storage did not answer")
        return "done"

    monkeypatch.setattr("tasks.stage.run_stage", fail_once)
    monkeypatch.setattr("tasks.stage.sweep", lambda root: None)
    at_once = do_stage.with_options(retry_delay_seconds=0)
    state = at_once(
        SimpleNamespace(root="nowhere", section=lambda _: None),
        "curate",
        force=False,
        return_state=True,
    )
    assert len(seen) == calls
    assert state.is_completed() is (calls == 2)


def test_training_on_two_machines_shows_and_cancelling_leaves_no_process_on_either(
    server: PrefectServer, small_run, journey
):
    """One machine is lost in between. Oracle: the processes of two network namespaces."""
    with machines(2) as two:
        endless = {
            **small_run,
            "train.epochs": 5000,
            "train.save_every_steps": 20,
            "train.loader.workers": 1,
            "train.launch": two.launch(),
        }
        recipe = server.recipes / "two-machines.yaml"  # a caller of the flow could not name them
        recipe.write_text(load_recipe(DEMO_RECIPE, endless).to_yaml())
        run_id = server.begin("train/neuclip", recipe=str(recipe), overrides={})

        def shown() -> str:
            return server.artifacts(run_id).get("train-progress", {}).get("description") or ""

        wait_for(lambda: "samples/s" in shown(), seconds=180, name="progress of training")
        assert all(two.pids(name) for name in two.names)
        two.kill(two.names[1])
        wait_for(lambda: "restarts 1" in shown(), seconds=180, name="progress after a restart")
        running = descendants(server.worker.pid)
        server.cli("flow-run", "cancel", run_id)
        assert server.end_of(run_id)["type"] == "CANCELLED"
        wait_for(lambda: not two.all_pids(), seconds=60, name="the end of both machines' processes")
        wait_for(
            lambda: not [pid for pid, command in running.items() if _command(pid) == command],
            seconds=60,
            name="the end of all processes of the run",
        )
