"""The stages in order: the one place where the graph stands."""

from typing import Any

from neuclip.acquire.stage import ACQUIRE
from neuclip.curate.stage import CURATE
from neuclip.evaluation.stage import EVALUATE
from neuclip.foundation.errors import ConfigError, nearest
from neuclip.foundation.names import in_known_case
from neuclip.publishing.stage import PUBLISH
from neuclip.scoring.caption_stage import CAPTION
from neuclip.scoring.stages import INDEX, SCORE
from neuclip.selection.stage import SELECT
from neuclip.shards.stage import SHARD
from neuclip.stages.stage import Stage
from neuclip.training.stage import TRAIN
from neuclip.tuning.stage import TEXT_ENCODER

STAGES: tuple[Stage[Any], ...] = (
    ACQUIRE,
    SCORE,
    CURATE,
    CAPTION,
    TEXT_ENCODER,
    SHARD,
    INDEX,
    TRAIN,
    SELECT,
    EVALUATE,
    PUBLISH,
)
NAMES = tuple(stage.name for stage in STAGES)
FEEDING = tuple(name for name in NAMES if any(stage.fed_by == name for stage in STAGES))
"""Stages that hand samples on to another."""


def stage_called(name: str) -> Stage[Any]:
    """Return the stage that is meant, in any case.

    Raises: ConfigError: with the nearest stage.
    """
    name = in_known_case(name, NAMES)
    if name not in NAMES:
        raise ConfigError(
            f"there is no stage {name!r}; stages are {', '.join(NAMES)}.{nearest(name, NAMES)}"
        )
    return STAGES[NAMES.index(name)]


def from_stage(name: str) -> tuple[str, ...]:
    """Return the names of a stage and of all below it."""
    return NAMES[NAMES.index(stage_called(name).name) :]
