"""A flow for each stage of the list: it does its stage and what is not done below it, and shows what happened.

Each is an attribute of this module by the name of its stage, for `prefect deploy`.
"""

from typing import Any

from prefect import Flow, flow

from flows.artifacts import show
from flows.recipes import load_permitted
from neuclip.journey import identify
from neuclip.recipe import Recipe
from neuclip.stage_list import STAGES, from_stage
from neuclip.stages.stage import Stage
from tasks.stage import do_stage


def read_recipe(recipe: str, overrides: dict[str, Any] | None) -> Recipe:
    """Read and check the recipe and its inputs before anything runs, with the command line's messages."""
    loaded = load_permitted(recipe, overrides)
    identify(loaded)
    return loaded


def stage_flow(stage: Stage[Any]) -> Flow[..., list[dict[str, Any]]]:
    """Make the flow that begins at a stage."""

    @flow(name=stage.name, description=f"{stage.purpose} Then do what is not done below.")
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
        stages = (stage.name,) if only else loaded.having(from_stage(stage.name))
        return [show(do_stage(loaded, name, force=force)) for name in stages]

    return begin_at_stage


STAGE_FLOWS = {stage.name: stage_flow(stage) for stage in STAGES}
globals().update(STAGE_FLOWS)
