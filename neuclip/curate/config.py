"""The `curate` section of a recipe."""

from pydantic import Field, model_validator

from neuclip.curate.rules import (
    Balance,
    CaptionCharacters,
    CaptionWords,
    DuplicateImages,
    DuplicatePairs,
    GroupRule,
    RowRule,
    Rule,
    UidList,
    reason_of,
)
from neuclip.foundation.config import Section
from neuclip.storage.places import Place

STAGE_VERSION = 2
"""Raised when the stage's output for the same recipe and inputs changes."""

MOST_REASONS = 63
"""A verdict's `failed` has a bit for each."""


class EmbeddingMatch(Section):
    """When an image is an evaluation image by its embedding."""

    score: str = Field(description="name of the score of kind `embedding`")
    min_cosine: float = Field(default=0.97, gt=0, le=1, description="least cosine of the two")


class Decontaminate(Section):
    """Drops pairs that are in evaluation sets, before all rules."""

    sets: list[Place] = Field(
        default_factory=list[str],
        description="the evaluation sets that training is kept clean of; another set here means other training data, "
        "another one in evaluate.sets alone does not",
        json_schema_extra={"keyed": False},  # their content counts, not where they lie
    )
    images: bool = Field(
        default=True, description="drop images that look the same as an evaluation image (phash)"
    )
    captions: bool = Field(
        default=True, description="drop alt texts that are a caption of a retrieval set"
    )
    embedding: EmbeddingMatch | None = Field(
        default=None, description="also drop images near an evaluation image in an embedding"
    )


def _default_rules() -> list[RowRule | GroupRule]:
    return [
        CaptionCharacters(min=3),
        CaptionWords(min=1),
        DuplicatePairs(),
        DuplicateImages(),
    ]


class CurateConfig(Section):
    """Which pairs to keep: rules in the order they are tried; the first that fails names the reason."""

    rules: list[Rule] = Field(
        default_factory=_default_rules,
        description="rules in order; the kinds are in docs/curate.md",
    )
    decontaminate: Decontaminate | None = Field(
        default=Decontaminate(),
        description="which evaluation sets training is kept clean of, and how their pairs are found; null keeps them",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "CurateConfig":
        reasons = [reason_of(rule) for rule in self.rules]
        again = next((reason for reason in reasons if reasons.count(reason) > 1), None)
        if again is not None:
            raise ValueError(f"two rules are called {again!r}; give one of them another `name`")
        return self


def files_of(rule: RowRule | GroupRule) -> list[tuple[str, tuple[str, ...]]]:
    """Return the URIs that a rule reads, each with the suffixes of its files."""
    match rule:
        case UidList():
            return [(rule.file, (".npy",))]
        case Balance():
            return [(rule.metadata, (".txt",))]
        case _:
            return []
