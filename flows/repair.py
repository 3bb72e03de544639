"""The flow that repairs acquire, made to run by a schedule: where nothing was won, nothing below is done again."""

from dataclasses import asdict
from typing import Any

from prefect import flow

from flows.artifacts import show
from flows.stages import read_recipe
from neuclip.stage_list import from_stage
from tasks.repair import do_repair
from tasks.stage import do_stage


@flow(name="repair", description="Fetch again what acquire lost for the moment.")
def repair(
    recipe: str, overrides: dict[str, Any] | None = None, *, only: bool = True
) -> dict[str, Any]:
    """Fetch the rows again whose reason may not hold the next time.

    Args:
        recipe: path or URI of a recipe (YAML) in a folder that the deployment allows.
        overrides: dotted name -> value, over the recipe; fields that name programs and machines cannot change.
        only: leave what is below acquire for another run; else do what is not done there.
    """
    loaded = read_recipe(recipe, overrides)
    done, report = do_repair(loaded)
    stages = () if only else loaded.having(from_stage("acquire")[1:])
    shown = [show(report), *(show(do_stage(loaded, name, force=False)) for name in stages)]
    return {"repair": asdict(done), "stages": shown}
