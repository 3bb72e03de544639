"""What the rules of curate ask of the score stage besides the scores that a recipe lists."""

from collections.abc import Sequence

from pydantic import Field

from neuclip.curate.config import CurateConfig, Decontaminate
from neuclip.curate.rules import ImageCluster, Language, NearDuplicateImages, reason_of
from neuclip.curate.scores import Language as LanguageScore
from neuclip.curate.scores import PHash, ScoreConfig
from neuclip.foundation.config import Section
from neuclip.foundation.errors import ConfigError, nearest
from neuclip.storage.places import Place

IN_EVALUATION_SET = "in_evaluation_set"
"""The reason of pairs that are dropped because a model is scored on them."""


class AskedSet(Section):
    """An evaluation set whose samples are described, so that pairs can be held against them."""

    uri: Place = Field(
        description="folder in the wds_* layout",
        json_schema_extra={"keyed": False},  # its content counts, not where it lies
    )
    scores: list[str] = Field(description="names of the scores that are computed for its samples")
    reason: str = Field(description="reason of the pairs that are dropped by it")


def asked_scores(config: CurateConfig, listed: Sequence[ScoreConfig]) -> list[ScoreConfig]:
    """Return the scores that a recipe lists, and those that curate needs and that need no model."""
    scores = {score.name: score for score in listed}
    for rule in config.rules:
        if isinstance(rule, Language) and rule.score not in scores:
            scores[rule.score] = LanguageScore(kind="language", name=rule.score)
        if isinstance(rule, NearDuplicateImages) and rule.score not in scores:
            scores[rule.score] = PHash(kind="phash", name=rule.score)
    has_hash = any(isinstance(score, PHash) for score in scores.values())
    decontaminate = config.decontaminate
    if decontaminate is not None and decontaminate.sets and decontaminate.images and not has_hash:
        scores["phash"] = PHash(kind="phash", name="phash")
    return list(scores.values())


def asked_sets(config: CurateConfig, scores: Sequence[ScoreConfig]) -> list[AskedSet]:
    """Return the evaluation sets that pairs are held against, each with the scores that this takes.

    Args:
        scores: all that are computed for the pool.
    """
    sets: list[AskedSet] = []
    if config.decontaminate is not None:
        names = _of_decontamination(config.decontaminate, scores)
        sets += [
            AskedSet(uri=uri, scores=names, reason=IN_EVALUATION_SET)
            for uri in config.decontaminate.sets
        ]
    sets += [
        AskedSet(uri=rule.target, scores=[rule.score], reason=reason_of(rule))
        for rule in config.rules
        if isinstance(rule, ImageCluster)
    ]
    return sets


def _of_decontamination(config: Decontaminate, scores: Sequence[ScoreConfig]) -> list[str]:
    phashes = [score.name for score in scores if isinstance(score, PHash)]
    names = phashes[:1] if config.images else []
    return names + ([config.embedding.score] if config.embedding is not None else [])


def missing_score(name: str, known: list[str], asked_by: str) -> ConfigError:
    """Return the error of a score that is asked for and not made."""
    return ConfigError(
        f"{asked_by} asks for score {name!r}, which score.scores does not have; there are: "
        f"{', '.join(known) or 'none'}.{nearest(name, known)}"
    )
