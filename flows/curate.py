"""The flow of stage curate."""

from typing import Any

from prefect import flow

from flows.stages import do_from


@flow(name="curate")
def curate(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False, only: bool = False
) -> list[dict[str, Any]]:
    """Judge the acquired pairs, and do what lies below.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do curate again although it is done.
        only: leave what lies below as it is.
    """
    return do_from("curate", recipe, overrides, force=force, only=only)
