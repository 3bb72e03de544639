"""The flow of stage caption."""

from typing import Any

from prefect import flow

from flows.stages import do_from


@flow(name="caption")
def caption(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False, only: bool = False
) -> list[dict[str, Any]]:
    """Gather the captions of the kept pairs, and do what lies below.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do caption again although it is done.
        only: leave what lies below as it is.
    """
    return do_from("caption", recipe, overrides, force=force, only=only)
