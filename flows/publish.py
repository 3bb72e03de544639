"""The flow of stage publish."""

from typing import Any

from prefect import flow

from flows.stages import do_from


@flow(name="publish")
def publish(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False, only: bool = False
) -> list[dict[str, Any]]:
    """Write the model folder and the report.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do publish again although it is done.
        only: leave what lies below as it is.
    """
    return do_from("publish", recipe, overrides, force=force, only=only)
