"""The stages of a recipe without optional ones, as most recipes of the tests are."""

from neuclip import stage_list

NAMES = tuple(stage.name for stage in stage_list.STAGES if not stage.is_optional)


def from_stage(name: str) -> tuple[str, ...]:
    """Return the names of a stage and of all below it."""
    return NAMES[NAMES.index(name) :]
