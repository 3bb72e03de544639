"""Flows and tasks without a server: the order of the stages, and what is refused before anything runs."""

import re
import sys
from contextvars import ContextVar
from uuid import uuid4

import pytest
from made.demo_web import DEMO_RECIPE
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Completed, Failed
from servers.prefect_server import free_port

from flows.stages import STAGE_FLOWS, read_recipe
from neuclip.foundation.children import run_child
from neuclip.foundation.errors import ConfigError, DataError, StorageError, TransientStorageError
from neuclip.recipe import load_recipe
from neuclip.stage_list import NAMES
from tasks.stage import ArtifactProgress, do_stage, is_worth_a_retry


def test_the_pipeline_has_the_stages_of_the_journey_in_its_order():
    assert tuple(flow.name for flow in STAGE_FLOWS.values()) == NAMES


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        (DEMO_RECIPE, {"curate.rulse": 3}),
        (DEMO_RECIPE, {"train.global_batch": 30}),
        (DEMO_RECIPE, {"root.folder": "lake"}),
        ("infra/recipes/none.yaml", None),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_message_of_the_command_line(recipe, overrides):
    with pytest.raises(ConfigError) as expected:
        load_recipe(recipe, overrides)
    with pytest.raises(ConfigError, match=re.escape(str(expected.value))):
        read_recipe(recipe, overrides)


def test_a_missing_input_is_found_before_anything_runs(tmp_path):
    overrides = {
        "root": str(tmp_path / "lake"),
        "acquire.table": str(tmp_path / "urls.parquet"),
    }
    with pytest.raises(DataError, match=r"urls\.parquet"):
        read_recipe(DEMO_RECIPE, overrides)
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (Failed(data=TransientStorageError("no answer")), True),
        (Failed(data=StorageError("no such bucket")), False),
        (Failed(data=ConfigError("no such field")), False),
        (Completed(data=1), False),
    ],
)
def test_only_what_may_pass_by_itself_is_worth_a_retry(state, expected):
    assert is_worth_a_retry(do_stage, None, state) is expected


def test_a_stage_is_not_done_before_those_above_it(small_web, tmp_path):
    recipe = load_recipe(
        DEMO_RECIPE,
        {
            "root": str(tmp_path / "lake"),
            **small_web.inputs,
        },
    )
    with pytest.raises(ConfigError, match="curate needs acquire"):
        do_stage.fn(recipe, "curate", force=False)


def test_the_lines_of_a_child_come_in_the_callers_context(tmp_path):
    """Prefect finds the run that a log line or an artifact belongs to by context."""
    run: ContextVar[str] = ContextVar("run")
    run.set("this one")
    seen = []
    run_child(
        [sys.executable, "-c", "print('a line')"],
        name="child",
        log_path=tmp_path / "child.log",
        on_line=lambda line: seen.append((line, run.get("none"))),
        tick_s=0.05,
    )
    assert seen == [("a line", "this one")]


def test_a_server_that_does_not_answer_stops_no_work(monkeypatch, caplog, tmp_path):
    """Training's lines are read by the thread that shows progress; if it died, training would wait for ever."""
    monkeypatch.setattr("tasks.progress.create_progress_artifact", lambda *_, **__: uuid4())
    nobody = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: nobody, PREFECT_HOME: tmp_path}):
        progress = ArtifactProgress("train")
        progress("train", done=0, total=1)
        progress("train", done=1, total=1)
    assert "progress of train could not be shown" in caplog.text
