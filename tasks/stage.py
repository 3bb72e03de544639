"""The task that does one stage, wherever Prefect runs it."""

import logging
import time
from typing import Any

import httpx
from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from neuclip.foundation.errors import is_transient
from neuclip.foundation.progress import silent
from neuclip.journey import StageReport, run_stage, sweep
from neuclip.recipe import Recipe
from neuclip.stage_list import stage_called

log = logging.getLogger(__name__)

_UPDATE_EVERY_S = 2.0


class ArtifactProgress:
    """Shows progress as a Prefect artifact; a server that does not answer stops no work."""

    def __init__(self, stage: str) -> None:
        self._artifact = create_progress_artifact(
            0.0, key=f"{stage}-progress", description=f"{stage}: begun"
        )
        self._shown_at = time.monotonic()

    def __call__(self, stage: str, *, done: int, total: int, note: str = "") -> None:
        """Take a report; every few seconds one is shown, and the last."""
        now = time.monotonic()
        if done < total and now - self._shown_at < _UPDATE_EVERY_S:
            return
        self._shown_at = now
        try:
            update_progress_artifact(
                self._artifact,  # pyright: ignore[reportArgumentType]  # the sync form returns an id
                100.0 * done / max(total, 1),
                description=f"{stage}: {done}/{total} {note}",
            )
        except httpx.HTTPError as error:
            log.warning("progress of %s could not be shown: %s", stage, error)


def is_worth_a_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry only what may pass by itself; a wrong recipe stays wrong."""
    del task, task_run
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)


@task(
    name="stage",
    task_run_name="{stage}",
    retries=3,
    retry_delay_seconds=[10, 30, 120],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_worth_a_retry,
    persist_result=False,
)
def do_stage(recipe: Recipe, stage: str, *, force: bool) -> StageReport:
    """Do one stage unless it is done; training and downloading happen in child processes of this one."""
    logging.getLogger("neuclip").setLevel(logging.INFO)  # Prefect adds its handlers, but no level
    progress = ArtifactProgress(stage) if stage_called(stage).has_progress else silent
    sweep(recipe.root)
    return run_stage(recipe, stage, force=force, progress=progress)
