"""Recipe sections of the terms."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from neuclip.foundation.config import Section
from neuclip.loading.edits.config import Share
from neuclip.loading.visits import MAIN, ViewName


class Views(NamedTuple):
    """Views of images and of texts by name."""

    images: list[str]
    texts: list[str]


class TermSection(Section):
    """Fields of every term."""

    weight: float = Field(
        ge=0, description="What the term is multiplied by; 0 does not compute it."
    )

    def reads(self, known: Views, name: str) -> Views:
        """Return the views that the term reads.

        Args:
            known: those of the recipe, `main` first.
            name: of the term.
        Raises: ValueError: naming what is missing, if the term can do nothing with them.
        """
        raise NotImplementedError


class _OfPairs(TermSection):
    """Fields of terms that compare images with texts."""

    images: tuple[ViewName, ...] | None = Field(
        default=None, min_length=1, description="Views of images it reads; null is all."
    )
    texts: tuple[ViewName, ...] | None = Field(
        default=None, min_length=1, description="Views of texts it reads; null is all."
    )

    def reads(self, known: Views, name: str) -> Views:
        """Return the views that are named, or all; see `TermSection.reads`."""
        return Views(
            _named(self.images, known.images, f"terms.{name}.images", "images"),
            _named(self.texts, known.texts, f"terms.{name}.texts", "texts"),
        )


class MultiViewConfig(_OfPairs):
    """InfoNCE between further pairs of views (DeCLIP, arXiv 2110.05208)."""

    name: Literal["multi_view"] = Field(description="Which term this section is of.")
    pairs: Literal["others", "all"] = Field(
        default="others",
        description="All pairs of an image view and a text view, or those without the objective's own.",
    )

    def reads(self, known: Views, name: str) -> Views:
        """Refuse to have no pair; see `TermSection.reads`."""
        views = super().reads(known, name)
        if self.pairs == "others" and views.images == views.texts == [MAIN]:
            raise ValueError(
                f"terms.{name} needs a second view: give image_views or text_views, for example "
                "image_views: {second: {}}"
            )
        return views


class ImageSelfConfig(TermSection):
    """Two views of an image tell of each other: SimSiam, as in DeCLIP, or SimCLR, as in SLIP."""

    name: Literal["image_self"] = Field(description="Which term this section is of.")
    method: Literal["simsiam", "simclr"] = Field(
        default="simsiam",
        description="SimSiam has one view predict the other, SimCLR tells it from all images of the batch",
    )
    images: tuple[ViewName, ViewName] | None = Field(
        default=None, description="The two views of images; null is the first two."
    )
    hidden: int | None = Field(
        default=None, ge=1, description="width inside the head; null is 1024, of SimCLR's 4096"
    )
    output: int | None = Field(
        default=None, ge=1, description="width that the head ends in; null is 1024, of SimCLR's 256"
    )
    bottleneck: int = Field(default=512, ge=1, description="width inside SimSiam's predictor")
    temperature: float = Field(default=0.1, gt=0, description="SimCLR's own temperature")

    @property
    def widths(self) -> tuple[int, int]:
        """Return the width inside the head and at its end."""
        hidden, output = (1024, 1024) if self.method == "simsiam" else (4096, 256)
        return self.hidden or hidden, self.output or output

    def reads(self, known: Views, name: str) -> Views:
        """Return two views of images; see `TermSection.reads`."""
        views = _named(self.images, known.images, f"terms.{name}.images", "images")[:2]
        if len(set(views)) < 2:
            raise ValueError(
                f"terms.{name} compares two views of an image, and it has {', '.join(views)} alone; give image_views, "
                "for example image_views: {second: {augment: {}}}"
            )
        return Views(views, [])


class MaskedTextConfig(TermSection):
    """Masked tokens of a text are guessed from its other tokens (BERT, arXiv 1810.04805; DeCLIP)."""

    name: Literal["masked_text"] = Field(description="Which term this section is of.")
    text: ViewName = Field(default=MAIN, description="View of texts whose words are masked.")
    view: Literal["separate", "shared"] = Field(
        default="separate",
        description="shared masks the view itself, so that all losses see the masks, as in DeCLIP's code; separate "
        "encodes the masked text in addition",
    )
    share: Share = Field(default=0.15, description="chance of a token, special ones apart")
    bidirectional: bool = Field(
        default=False,
        description="whether masked positions see what stands after them in a text tower that otherwise reads from "
        "left to right; needs a separate view",
    )

    def masked_view(self, name: str) -> str:
        """Return the view of texts that is masked: one of the term's own name, if it is separate."""
        return name if self.view == "separate" else self.text

    def reads(self, known: Views, name: str) -> Views:
        """Return the view that is masked; see `TermSection.reads`."""
        _named((self.text,), known.texts, f"terms.{name}.text", "texts")
        if self.view == "separate" and name in known.texts:
            raise ValueError(
                f"terms.{name} masks a view of its own, and text_views has one of that name; rename either"
            )
        if self.bidirectional and self.view == "shared":
            raise ValueError(
                f"terms.{name}.bidirectional would let the embeddings of view {self.text} see otherwise than "
                "those that are published; set view: separate"
            )
        return Views([], [self.masked_view(name)])


class NeighboursConfig(_OfPairs):
    """An image is told the nearest neighbour of its text among texts seen before (DeCLIP)."""

    name: Literal["neighbours"] = Field(description="Which term this section is of.")
    queue: int = Field(
        default=65_536,
        ge=1,
        description="texts of the view `main` that are kept, the last ones of all ranks; the term begins when there "
        "are as many",
    )


TermConfig = Annotated[
    MultiViewConfig | ImageSelfConfig | MaskedTextConfig | NeighboursConfig,
    Field(discriminator="name"),
]

SELF_SUPERVISION = (ImageSelfConfig, MaskedTextConfig)
"""Terms within one side, which share one weight in DeCLIP's paper."""


def _named(views: Sequence[str] | None, known: list[str], where: str, of: str) -> list[str]:
    if views is None:
        return known
    for view in views:
        if view not in known:
            raise ValueError(f"{where} names view {view!r}; views of {of} are {', '.join(known)}")
    return list(views)
