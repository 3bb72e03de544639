"""The task that repairs acquire."""

import logging

from prefect import task

from neuclip.acquire.repair import Repair
from neuclip.journey import StageReport
from neuclip.recipe import Recipe
from neuclip.repair import repair
from tasks.progress import ArtifactProgress
from tasks.stage import is_worth_a_retry


@task(
    name="repair",
    retries=3,
    retry_delay_seconds=[10, 30, 120],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_worth_a_retry,
    persist_result=False,
)
def do_repair(recipe: Recipe) -> tuple[Repair, StageReport]:
    """Fetch again what may not fail the next time; a try that goes on after another fetches nothing twice."""
    logging.getLogger("neuclip").setLevel(logging.INFO)  # Prefect adds its handlers, but no level
    return repair(recipe, progress=ArtifactProgress("acquire"))
