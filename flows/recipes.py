"""Which recipes the parameter of a flow may name, and what its overrides may change."""

import os
from typing import Any

from neuclip.foundation.errors import ConfigError
from neuclip.recipe import Recipe, load_bounded
from neuclip.storage.uris import is_local, local_part

RECIPES = "NEUCLIP_RECIPES"
"""Set where a worker runs: folders and prefixes of object storage, with commas between them."""
DEFAULT_RECIPES = "infra/recipes"


def load_permitted(recipe: str, overrides: dict[str, Any] | None) -> Recipe:
    """Read a recipe that the deployment's operator has put up, with overrides that start no program.

    Raises: ConfigError: if the recipe lies elsewhere, or an override is not the caller's to make.
    """
    permitted = [
        place.strip()
        for place in (os.environ.get(RECIPES) or DEFAULT_RECIPES).split(",")
        if place.strip()
    ]
    if not any(_lies_in(recipe, place) for place in permitted):
        raise ConfigError(
            f"recipe {recipe} is in no folder that this deployment allows, which are {', '.join(permitted)}; put it "
            f"there, or set {RECIPES} in the environment of the worker"
        )
    return load_bounded(recipe, overrides)


def _lies_in(recipe: str, place: str) -> bool:
    """Tell whether a recipe lies below a folder, after links and `..` were followed."""
    if is_local(recipe) and is_local(place):
        return local_part(recipe).resolve().is_relative_to(local_part(place).resolve())
    if is_local(recipe) or is_local(place):
        return False
    has_detour = bool({"", ".", ".."} & set(recipe.partition("://")[2].split("/")))
    return recipe.startswith(f"{place.rstrip('/')}/") and not has_detour
