"""The `score` section of a recipe."""

from pydantic import Field, model_validator

from neuclip.curate.asked import AskedSet, missing_score
from neuclip.curate.scores import ScoreConfig
from neuclip.foundation.config import Section, unkeyed
from neuclip.stages.scale import ScaleConfig

STAGE_VERSION = 1
"""Raised when the stage's own folder for the same recipe and inputs changes; see curate.scores.SCORE_VERSION."""


class ScoringConfig(Section):
    """Which columns are computed from images and captions, for the rules of curate to ask."""

    scores: list[ScoreConfig] = Field(
        default_factory=list[ScoreConfig],
        description="columns, each computed once for each pair; those of kind phash and language are made without "
        "being listed where curate needs them",
    )

    scale: ScaleConfig = unkeyed(
        ScaleConfig(), description="who scores; a part is one score of one partition"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "ScoringConfig":
        names = [score.name for score in self.scores]
        again = next((name for name in names if names.count(name) > 1), None)
        if again is not None:
            raise ValueError(f"two scores are called {again!r}; give one of them another `name`")
        return self


class AskedScoring(ScoringConfig):
    """The section as the stage reads it: with what curate asks for besides."""

    sets: list[AskedSet] = Field(
        default_factory=list[AskedSet], description="evaluation sets whose samples are described"
    )


def check_asked(config: AskedScoring) -> None:
    """Raise if curate asks for a score that is not made.

    Raises: ConfigError: naming who asks, and the scores there are.
    """
    known = [score.name for score in config.scores]
    for asked in config.sets:
        for name in asked.scores:
            if name not in known:
                raise missing_score(name, known, f"what drops {asked.reason}")
