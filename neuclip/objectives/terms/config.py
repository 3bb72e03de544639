"""Recipe sections of the terms."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field

from neuclip.foundation.config import Section
from neuclip.loading.visits import ViewName


class TermSection(Section):
    """Fields of every term."""

    weight: float = Field(
        ge=0, description="What the term is multiplied by; 0 does not compute it."
    )
    images: tuple[ViewName, ...] | None = Field(
        default=None, min_length=1, description="Views of images it reads; null is all."
    )
    texts: tuple[ViewName, ...] | None = Field(
        default=None, min_length=1, description="Views of texts it reads; null is all."
    )

    def check_views(self, images: Collection[str], texts: Collection[str], name: str) -> None:
        """Refuse views that the term can do nothing with.

        Args:
            images: views of images that it would read.
            texts: views of texts that it would read.
            name: of the term, for the message.
        Raises: ValueError: saying what is missing.
        """


class MultiViewConfig(TermSection):
    """InfoNCE between further pairs of views (DeCLIP, arXiv 2110.05208)."""

    name: Literal["multi_view"] = Field(
        default="multi_view", description="Which term this section is of."
    )
    pairs: Literal["others", "all"] = Field(
        default="others",
        description="All pairs of an image view and a text view, or those without the objective's own.",
    )

    def check_views(self, images: Collection[str], texts: Collection[str], name: str) -> None:
        """Refuse to have no pair; see `TermSection.check_views`."""
        if self.pairs == "others" and list(images) == list(texts) == ["main"]:
            raise ValueError(
                f"terms.{name} needs a second view: give image_views or text_views, for example "
                "image_views: {second: {}}"
            )


TermConfig = Annotated[MultiViewConfig, Field()]
