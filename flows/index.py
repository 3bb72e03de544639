"""The flow of stage index."""

from typing import Any

from prefect import flow

from flows.stages import do_from


@flow(name="index")
def index(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False, only: bool = False
) -> list[dict[str, Any]]:
    """Build the sample index, and do what lies below.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do index again although it is done.
        only: leave what lies below as it is.
    """
    return do_from("index", recipe, overrides, force=force, only=only)
