"""The flow of stage shard."""

from typing import Any

from prefect import flow

from flows.stages import do_from


@flow(name="shard")
def shard(
    recipe: str, overrides: dict[str, Any] | None = None, *, force: bool = False, only: bool = False
) -> list[dict[str, Any]]:
    """Pack the kept pairs into training shards, and do what lies below.

    Args:
        recipe: path or URL of a recipe (YAML).
        overrides: dotted name -> value, over the recipe.
        force: do shard again although it is done.
        only: leave what lies below as it is.
    """
    return do_from("shard", recipe, overrides, force=force, only=only)
