"""The flow of stage acquire."""

from typing import Any

from prefect import flow

from flows.stages import do_from


@flow(name="acquire")
def acquire(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False, only: bool = False
) -> list[dict[str, Any]]:
    """Fetch the URL table, and do what lies below it.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do acquire again although it is done.
        only: leave what lies below as it is.
    """
    return do_from("acquire", recipe, overrides, force=force, only=only)
