"""Repair of acquire: rows that may be fetched the next time are fetched again, and the stage takes them in."""

from neuclip.acquire.repair import Repair, run_repair
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import Progress, silent
from neuclip.journey import StageReport, identify, making, run_stage
from neuclip.recipe import Recipe
from neuclip.stages.manifest import is_committed, read_manifest
from neuclip.stages.revisions import REVISIONS
from neuclip.stages.scratch import scratch_folder

_STAGE = "acquire"


def repair(recipe: Recipe, *, progress: Progress = silent) -> tuple[Repair, StageReport]:
    """Fetch again what may not fail the next time; return what that did, and acquire as it stands now.

    Raises: ConfigError: if acquire has not been done with this recipe.
    """
    if recipe.acquire.table is None:
        raise ConfigError(
            f"the shards of {recipe.acquire.source} were adopted, so there is nothing to fetch again"
        )
    while True:
        _put_together(recipe, progress)
        with making(recipe, _STAGE) as identity:
            if not is_committed(identity.uri):  # another repair has just revised it
                continue
            with scratch_folder(recipe.root) as scratch:
                done = run_repair(
                    recipe.acquire,
                    read_manifest(identity.uri),
                    root=recipe.root,
                    scratch=scratch,
                    progress=progress,
                )
            break
    return done, run_stage(recipe, _STAGE, progress=progress)


def _put_together(recipe: Recipe, progress: Progress) -> None:
    """Do acquire if an earlier repair ended before that; what was never done cannot be repaired."""
    identity = identify(recipe)[_STAGE]
    if is_committed(identity.uri):
        return
    if REVISIONS not in identity.inputs:
        raise ConfigError(
            f"there is nothing to repair: acquire has not been done with this recipe ({identity.uri} is not "
            "committed); run `--only acquire` first"
        )
    run_stage(recipe, _STAGE, progress=progress)
