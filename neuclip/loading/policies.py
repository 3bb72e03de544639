"""Which of its texts a sample shows at a visit: the policies that recipes choose from."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from neuclip.foundation.config import Section, keyed_if_set
from neuclip.loading.visits import MAIN, ViewName

ORIGINAL = "alt"
"""The source whose first text is a sample's original: what stands in for a text that is too short."""

_LEAST_WORDS = 2

Weights = dict[str, Annotated[float, Field(ge=0)]]
TextsOf = Callable[[str], Sequence[str]]
"""The texts that one sample has of a source."""


class Caption(NamedTuple):
    """A text of a sample: the k-th of a source. A sample without any has an empty one of no source.

    Args:
        stands_in: it is shown because the text or the source that the policy wanted is of no use.
        is_edited: the text is not as it lies in the source.
    """

    text: str
    source: str = ""
    k: int = 0
    stands_in: bool = False
    is_edited: bool = False


class Group(NamedTuple):
    """Texts that are drawn with the same chance, one of them with this weight among groups."""

    weight: float
    captions: list[Caption]


class Policy(Section):
    """Fields of every policy."""

    edit: Literal["eda"] | None = keyed_if_set(
        default=None,
        description="eda replaces a word by a synonym, swaps two words or leaves words out, anew at each visit; "
        "null shows texts as they are",
    )

    @abstractmethod
    def asked(self) -> str:
        """Say in words what is asked for, but for the edit."""

    def named(self) -> list[str]:
        """Return the sources that it names with a weight above 0 at some time."""
        return []

    def describe(self) -> str:
        """Say in words what is asked for."""
        return f"{self.asked()}; edited by {self.edit.upper()}" if self.edit else self.asked()


class DrawingPolicy(Policy):
    """A policy that draws by itself, in place of leaning on another view."""

    @abstractmethod
    def groups(self, texts_of: TextsOf, epoch: int) -> list[Group]:
        """Return what is drawn from for one sample, none if it has no text of a named source.

        Args:
            epoch: of the visit, from 0.
        """


class WeightsFrom(Section):
    """Weights that hold from an epoch on."""

    from_epoch: int = Field(ge=1, description="first epoch of these weights; the first of all is 0")
    weights: Weights = Field(description="caption source -> weight with which it is drawn")

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        _require_a_weight(self.weights)
        return self


class PerSource(DrawingPolicy):
    """A source by weight among those that a sample has, then one of its texts (VeCLIP, arXiv 2310.07699).

    Definition: with the sources in order, `alt` first and the others by name, and one uniform number u of the visit,
    the source is the first one at which the sum of weights so far is above u times the sum of all. A weight of 0
    is as if the source were not named. Since `alt` comes first, a source whose weight grows at the cost of `alt`'s
    keeps every visit that it had.

    The schedule goes by epochs, since a visit is known by its epoch: the weights in force are a function of the
    visit alone, whatever the batch size, the number of ranks and workers, and wherever a run was resumed. Weights that
    change within an epoch are for `train.phases`.
    """

    kind: Literal["per_source"] = "per_source"
    weights: Weights = Field(
        default={ORIGINAL: 1.0},
        description="caption source -> weight with which it is drawn at each visit",
    )
    schedule: list[WeightsFrom] = keyed_if_set(
        default=[], description="weights of later epochs, in order; each holds until the next"
    )

    def weights_at(self, epoch: int) -> Mapping[str, float]:
        """Return the weights in force."""
        due = [change.weights for change in self.schedule if change.from_epoch <= epoch]
        return due[-1] if due else self.weights

    def groups(self, texts_of: TextsOf, epoch: int) -> list[Group]:
        """Return a group for each source that the sample has."""
        weights = self.weights_at(epoch)
        return [
            Group(weights[source], captions)
            for source in _in_order(weights)
            if weights[source] > 0 and (captions := captions_of(source, texts_of))
        ]

    def named(self) -> list[str]:
        """Return the sources of all times."""
        every = [self.weights, *(change.weights for change in self.schedule)]
        return _in_order(
            {source for weights in every for source, weight in weights.items() if weight > 0}
        )

    def asked(self) -> str:
        """Say the share of each source, where a sample has all."""
        parts = [_shares(self.weights)]
        parts += [f"from epoch {one.from_epoch} {_shares(one.weights)}" for one in self.schedule]
        return ", ".join(parts)

    @model_validator(mode="after")
    def _weights_and_order(self) -> Self:
        _require_a_weight(self.weights)
        epochs = [change.from_epoch for change in self.schedule]
        if any(later <= earlier for earlier, later in pairwise(epochs)):
            raise ValueError(
                f"schedule has from_epoch {epochs}; each needs a later epoch than the one before"
            )
        return self


class PerCaption(DrawingPolicy):
    """The original and every text of the named sources alike: each of K + 1 (LaCLIP, arXiv 2305.20088)."""

    kind: Literal["per_caption"] = "per_caption"
    sources: list[str] = Field(
        description=f"caption sources that are drawn beside the original, the first text of `{ORIGINAL}`"
    )

    def groups(self, texts_of: TextsOf, epoch: int) -> list[Group]:
        """Return all texts as one group."""
        del epoch
        captions = captions_of(ORIGINAL, texts_of)[:1]
        for source in self.sources:
            captions += captions_of(source, texts_of)[1 if source == ORIGINAL else 0 :]
        return [Group(1.0, captions)] if captions else []

    def named(self) -> list[str]:
        """Return the sources beside the original."""
        return list(self.sources)

    def asked(self) -> str:
        """Say that all are alike."""
        return (
            f"the original and every text of {', '.join(self.sources) or 'no other source'} alike"
        )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources {self.sources} has a source twice; name each once")
        return self


class Same(Policy):
    """The text that another view draws, before that view's edit: DeCLIP edits the first view's text for its second."""

    kind: Literal["same"] = "same"
    view: ViewName = Field(default=MAIN, description="view of texts whose text it is")

    def asked(self) -> str:
        """Name the view."""
        return f"the text of {self.view}"


class Other(Policy):
    """Another text than a view draws, by the same policy: two draws of one sample without replacement.

    Equal texts count as one. A sample with a single text shows it in both views.
    """

    kind: Literal["other"] = "other"
    view: ViewName = Field(default=MAIN, description="view of texts whose text it is not")

    def asked(self) -> str:
        """Name the view."""
        return f"another text than {self.view} shows, drawn in the same way"


OwnCaptions = Annotated[PerSource | PerCaption, Field(discriminator="kind")]
"""Policies of the view `main`."""
ViewCaptions = Annotated[PerSource | PerCaption | Same | Other, Field(discriminator="kind")]
"""Policies of further views."""


def captions_of(source: str, texts_of: TextsOf) -> list[Caption]:
    """Return the texts of a source as they are shown: the original stands in for those of fewer than two words."""
    captions = [Caption(text, source, k) for k, text in enumerate(texts_of(source))]
    short = [
        place
        for place, caption in enumerate(captions)
        if len(caption.text.split(None, _LEAST_WORDS - 1)) < _LEAST_WORDS
        and (source, place) != (ORIGINAL, 0)
    ]
    originals = [text for text in texts_of(ORIGINAL)[:1] if text.strip()] if short else []
    for place in short if originals else ():
        captions[place] = Caption(originals[0], ORIGINAL, stands_in=True)
    return captions


def draw(groups: Sequence[Group], draws: Callable[[], np.random.Generator]) -> Caption:
    """Draw a group by weight, then one of its texts.

    Args:
        groups: one or more, with a text or more in each.
        draws: gives the random numbers, if any are needed.
    """
    if len(groups) == 1 and len(groups[0].captions) == 1:
        return groups[0].captions[0]
    for_group, for_text = draws().random(2)
    goal, place = for_group * sum(group.weight for group in groups), 0
    while place < len(groups) - 1 and goal >= groups[place].weight:
        goal -= groups[place].weight
        place += 1
    captions = groups[place].captions
    return captions[int(for_text * len(captions))]


def without(groups: Sequence[Group], text: str) -> list[Group]:
    """Return groups without a text; those that it leaves empty are gone."""
    left = (
        Group(weight, [caption for caption in captions if caption.text != text])
        for weight, captions in groups
    )
    return [group for group in left if group.captions]


def _in_order(sources: Mapping[str, float] | set[str]) -> list[str]:
    """Return sources in the one order in which they are drawn, which a recipe's own cannot change."""
    return sorted(sources, key=lambda source: (source != ORIGINAL, source))


def _require_a_weight(weights: Mapping[str, float]) -> None:
    if not any(weight > 0 for weight in weights.values()):
        raise ValueError("weights gives no source a weight above 0")


def _shares(weights: Mapping[str, float]) -> str:
    total = sum(weights.values())
    return " + ".join(
        f"{weights[source] / total:.3g} {source}"
        for source in _in_order(weights)
        if weights[source] > 0
    )
