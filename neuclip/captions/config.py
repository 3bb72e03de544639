"""The `caption` section of a recipe."""

from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from neuclip.captions.imports import Imported
from neuclip.captions.sentences import Sentences
from neuclip.captions.template import Template
from neuclip.curate.scores import ModelScore
from neuclip.foundation.config import Section, keyed_if_set, unkeyed
from neuclip.foundation.errors import nearest
from neuclip.generation.config import Budget, GenerateStep, Model
from neuclip.stages.scale import ScaleConfig

STAGE_VERSION = 2
"""Raised when the stage's output for the same recipe and inputs changes."""
PART_VERSION = 1
"""Raised when a part's output for the same settings and inputs changes."""

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Derived = Annotated[Sentences | Template, Field(discriminator="kind")]


class SimilarityConfig(ModelScore):
    """A CLIP that compares what models write with the image."""

    margin: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="by how much an answer's cosine may be below that of the alt text, else `low_similarity`",
    )


class CaptionConfig(Section):
    """Which texts the kept pairs have, by source."""

    imports: list[Imported] = keyed_if_set(
        [],
        description="sources from files that others published, joined to the pairs by key",
    )
    derive: list[Derived] = Field(
        default_factory=list[Derived],
        description="sources that a function makes of others, which may be of `generate` too",
    )
    generate: list[GenerateStep] = keyed_if_set(
        [], description="sources that models write; they may read others, of `derive` too"
    )
    models: dict[ModelName, Model] = keyed_if_set(
        {}, description="the models that `generate` asks, by name"
    )
    similarity: SimilarityConfig | None = keyed_if_set(
        None, description="compares what models write with the image; null leaves that out"
    )
    max_per_source: int = Field(
        default=16,
        ge=1,
        le=1000,
        description="most texts of one source for a sample, the first ones are kept",
    )
    budget: Budget = unkeyed(Budget(), description="what answers may cost")
    scale: ScaleConfig = unkeyed(
        ScaleConfig(), description="who asks models; a part is the texts of one partition"
    )

    @property
    def made(self) -> list[Derived | GenerateStep]:
        """All sources that are made of others, each after those that it reads."""
        by_name = {one.source: one for one in (*self.derive, *self.generate)}
        order = TopologicalSorter({name: one.reads() for name, one in by_name.items()})
        return [by_name[name] for name in order.static_order() if name in by_name]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        seen = {"alt"}
        lists = {"imports": self.imports, "derive": self.derive, "generate": self.generate}
        for kind, steps in lists.items():
            for place, one in enumerate(steps):
                if one.source in seen:
                    raise ValueError(
                        f"the source {one.source!r} of {kind}.{place} is there already; give it another name"
                    )
                seen.add(one.source)
        try:
            _ = self.made
        except CycleError as error:
            way = " -> ".join(reversed(error.args[1]))
            raise ValueError(
                f"sources are made of each other: {way}; let one of them read something else"
            ) from None
        return self

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        for place, step in enumerate(self.generate):
            if step.model not in self.models:
                known = ", ".join(self.models) or "none"
                raise ValueError(
                    f"generate.{place}.model is {step.model!r}, which is not among caption.models: {known}."
                    f"{nearest(step.model, self.models)}"
                )
        return self
