"""The pipeline: all stages in order, each a flow of its own."""

from typing import Any

from prefect import flow

from flows.acquire import acquire
from flows.caption import caption
from flows.curate import curate
from flows.evaluate import evaluate
from flows.index import index
from flows.publish import publish
from flows.selection import select
from flows.shard import shard
from flows.stages import read_recipe
from flows.train import train

STAGE_FLOWS = (acquire, curate, caption, shard, index, train, select, evaluate, publish)


@flow(name="pipeline")
def pipeline(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False
) -> list[dict[str, Any]]:
    """Do all stages that are not done.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do all stages again although they are done.
    """
    read_recipe(recipe, overrides)
    done: list[dict[str, Any]] = []
    for stage_flow in STAGE_FLOWS:
        done += stage_flow(recipe, overrides, force=force, only=True)
    return done
