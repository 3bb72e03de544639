"""The task that does one stage, wherever Prefect runs it."""

import time
from contextvars import copy_context
from typing import Any

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from neuclip.foundation.errors import is_transient
from neuclip.journey import StageReport, run_stage
from neuclip.recipe import Recipe

_PROGRESS_STAGES = ("acquire", "train")
_UPDATE_EVERY_S = 2.0


def _is_worth_a_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry only what may pass by itself; a wrong recipe stays wrong."""
    del task, task_run
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)


class ArtifactProgress:
    """Shows progress as a Prefect artifact; training reports from another thread, so the context is kept."""

    def __init__(self, stage: str) -> None:
        self._context = copy_context()
        self._artifact = create_progress_artifact(
            0.0, key=f"{stage}-progress", description=f"{stage}: begun"
        )
        self._updated = 0.0

    def __call__(self, stage: str, *, done: int, total: int, note: str = "") -> None:
        """Take a report; a few seconds apart are enough for people."""
        now = time.monotonic()
        if done < total and now - self._updated < _UPDATE_EVERY_S:
            return
        self._updated = now
        share = 100.0 * done / max(total, 1)
        self._context.run(
            update_progress_artifact,
            self._artifact,  # pyright: ignore[reportArgumentType]  # the sync form returns an id
            share,
            description=f"{stage}: {done}/{total} {note}",
        )


def _quiet(stage: str, *, done: int, total: int, note: str = "") -> None:
    del stage, done, total, note


@task(
    name="stage",
    task_run_name="{stage}",
    retries=3,
    retry_delay_seconds=[10, 30, 120],
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_worth_a_retry,
    persist_result=False,
)
def do_stage(recipe: Recipe, stage: str, *, force: bool) -> StageReport:
    """Do one stage unless it is done; training and downloading happen in child processes of this one."""
    progress = ArtifactProgress(stage) if stage in _PROGRESS_STAGES else _quiet
    return run_stage(recipe, stage, force=force, progress=progress)
