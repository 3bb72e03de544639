"""The flow of stage evaluate."""

from typing import Any

from prefect import flow

from flows.stages import do_from


@flow(name="evaluate")
def evaluate(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False, only: bool = False
) -> list[dict[str, Any]]:
    """Score the chosen model, and do what lies below.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do evaluate again although it is done.
        only: leave what lies below as it is.
    """
    return do_from("evaluate", recipe, overrides, force=force, only=only)
