"""The task that does one stage, wherever Prefect runs it."""

import logging
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from neuclip.foundation.errors import is_transient
from neuclip.foundation.progress import silent
from neuclip.journey import StageReport, run_stage, sweep
from neuclip.recipe import Recipe
from neuclip.stage_list import stage_called
from tasks.pool import pool_of
from tasks.progress import ArtifactProgress


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
    with pool_of(recipe.section(stage)) as pool:
        return run_stage(recipe, stage, force=force, progress=progress, pool=pool)
