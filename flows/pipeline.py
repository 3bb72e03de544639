"""The pipeline: all stages in order, each a flow of its own."""

from typing import Any

from prefect import flow

from flows.stages import STAGE_FLOWS, read_recipe


@flow(name="pipeline")
def pipeline(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False
) -> list[dict[str, Any]]:
    """Do all stages that are not done.

    Args:
        recipe: path or URI of a recipe (YAML) in a folder that the deployment allows.
        overrides: dotted name -> value, over the recipe; fields that name programs and machines cannot change.
        force: do all stages again although they are done.
    """
    loaded = read_recipe(recipe, overrides)
    done: list[dict[str, Any]] = []
    for name in loaded.having(STAGE_FLOWS):
        done += STAGE_FLOWS[name](recipe, overrides, force=force, only=True)
    return done
