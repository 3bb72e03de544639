"""The nine stage flows: each does its stage and what is not done below it, and shows what happened."""

from typing import Any

from prefect import Flow, flow

from flows.artifacts import show
from flows.recipes import load_permitted
from flows.shared import fetch_by_workers, is_shared
from neuclip.journey import from_stage, identify
from neuclip.recipe import Recipe
from tasks.stage import do_stage


def read_recipe(recipe: str, overrides: dict[str, Any] | None) -> Recipe:
    """Read and check the recipe and its inputs before anything runs, with the command line's messages."""
    loaded = load_permitted(recipe, overrides)
    identify(loaded)
    return loaded


def stage_flow(stage: str, purpose: str) -> Flow[..., list[dict[str, Any]]]:
    """Make the flow that begins at a stage.

    Args:
        purpose: what the stage does, as one sentence.
    """

    @flow(name=stage, description=f"{purpose} Then do what is not done below.")
    def begin_at_stage(
        recipe: str,
        overrides: dict[str, Any] | None = None,
        *,
        force: bool = False,
        only: bool = False,
    ) -> list[dict[str, Any]]:
        """Do the stage unless it is done, and what is not done below it.

        Args:
            recipe: path or URI of a recipe (YAML) in a folder that the deployment allows.
            overrides: dotted name -> value, over the recipe; fields that name programs and machines cannot change.
            force: do these stages again although they are done.
            only: do this stage alone.
        """
        loaded = read_recipe(recipe, overrides)
        stages = (stage,) if only else from_stage(stage)
        by_workers = "acquire" in stages and is_shared(loaded, force=force)
        if by_workers:
            fetch_by_workers(recipe, overrides, loaded, force=force)
        return [
            show(do_stage(loaded, name, force=force and not (by_workers and name == "acquire")))
            for name in stages
        ]

    return begin_at_stage


acquire = stage_flow("acquire", "Fetch the images of the URL table.")
curate = stage_flow("curate", "Judge the acquired pairs.")
caption = stage_flow("caption", "Gather the captions of the kept pairs.")
shard = stage_flow("shard", "Pack the kept pairs into training shards.")
index = stage_flow("index", "Build the sample index.")
train = stage_flow("train", "Train the towers.")
select = stage_flow("select", "Choose the checkpoint.")
evaluate = stage_flow("evaluate", "Score the chosen model.")
publish = stage_flow("publish", "Write the model folder and the report.")
