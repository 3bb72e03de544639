"""The `caption` section of a recipe."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from neuclip.captions.sentences import Sentences
from neuclip.captions.template import Template
from neuclip.foundation.config import Section

STAGE_VERSION = 2
"""Raised when the stage's output for the same recipe and inputs changes."""
PART_VERSION = 1
"""Raised when a part's output for the same settings and inputs changes."""

Derived = Annotated[Sentences | Template, Field(discriminator="kind")]


class CaptionConfig(Section):
    """Which texts the kept pairs have, by source."""

    derive: list[Derived] = Field(
        default_factory=list[Derived],
        description="sources that a function makes of others, in order; a later one may read an earlier one",
    )
    max_per_source: int = Field(
        default=16,
        ge=1,
        le=1000,
        description="most texts of one source for a sample, the first ones are kept",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [derived.source for derived in self.derive]
        for place, derived in enumerate(self.derive):
            if derived.source in [*names[:place], "alt"]:
                raise ValueError(
                    f"the source {derived.source!r} of derive.{place} is there already; give it another name"
                )
            for source in derived.reads():
                if source in names[place:]:
                    raise ValueError(
                        f"derive.{place} reads {source!r}, which is made by itself or after it; put that one before it"
                    )
        return self
