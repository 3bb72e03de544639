"""The flow of stage select."""

from typing import Any

from prefect import flow

from flows.stages import do_from


@flow(name="select")
def select(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False, only: bool = False
) -> list[dict[str, Any]]:
    """Choose the checkpoint, and do what lies below.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do select again although it is done.
        only: leave what lies below as it is.
    """
    return do_from("select", recipe, overrides, force=force, only=only)
