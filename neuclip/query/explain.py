"""The whole story of one pair, in the order of the journey."""

from dataclasses import dataclass, field

import duckdb

from neuclip.foundation.errors import ConfigError
from neuclip.query.views import Tables
from neuclip.recipe import Recipe
from neuclip.stage_list import STAGES
from neuclip.stages.telling import Facts, Pair


@dataclass
class Story:
    """What every stage says of a pair; ends where the pair or the journey does."""

    uid: str
    stages: dict[str, Facts] = field(default_factory=dict[str, Facts])
    """Stage -> facts, in the order of the journey; values are JSON."""
    end: str = ""
    """Why it ends where it does; empty if all stages up to training have been told."""


def explain(recipe: Recipe, uid: str) -> Story:
    """Tell what every committed stage knows of a pair.

    Raises: ConfigError: if the text is no uid or the first stage has not been done. DataError: if no pair has the uid.
    """
    tables, story = Tables(recipe), Story(uid.strip().lower())
    first = STAGES[0].name
    if not tables.is_done[first]:
        raise ConfigError(
            f"there is no pair to explain: {first} has not been done with this recipe; run `--only {first}`"
        )
    with duckdb.connect() as connection:
        pair = Pair(story.uid, recipe.root, recipe.acquire.source, connection)
        for stage in STAGES:
            if stage.tell is None:
                continue
            if not tables.is_done[stage.name]:
                story.end = (
                    f"{stage.name} has not been done with this recipe: run `--only {stage.name}`"
                )
                break
            story.stages[stage.name], story.end = stage.tell(pair, tables.uris[stage.name])
            if story.end:
                break
    return story
