"""The tasks of acquire by several workers: share the partitions out, and fetch a share wherever Prefect runs it."""

import logging
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from neuclip.acquire.shared import Share, fetch_share, for_one_of, hand_out
from neuclip.foundation.errors import ChildError, is_transient
from neuclip.foundation.progress import silent
from neuclip.journey import identify
from neuclip.recipe import Recipe
from tasks.stage import ArtifactProgress


def is_worth_another_try(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass by itself, and a downloader that died or hung; finished partitions are not fetched again."""
    del task, task_run
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and (
        is_transient(error) or isinstance(error, ChildError)
    )


@task(name="share partitions out", persist_result=False)
def share_out(recipe: Recipe, *, force: bool) -> list[Share]:
    """Plan acquire; the planned rows wait at the root."""
    return hand_out(
        recipe.acquire,
        root=recipe.root,
        stage_key=identify(recipe)["acquire"].key,
        progress=silent,
        force=force,
    )


@task(
    name="fetch partitions",
    task_run_name="{share.name}",
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_worth_another_try,
    persist_result=False,
)
def fetch_partitions(share: Share, recipe: Recipe, *, workers: int, force: bool) -> list[str]:
    """Fetch a share and commit its partitions at the root; return the keys of those that wait for the stage."""
    logging.getLogger("neuclip").setLevel(logging.INFO)  # Prefect adds its handlers, but no level
    return fetch_share(
        share,
        for_one_of(recipe.acquire, workers),
        root=recipe.root,
        progress=ArtifactProgress(share.name),
        force=force,
    )
