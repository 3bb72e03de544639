"""What a batch shows of its samples: views of their images, and views of their texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from neuclip.foundation.randomness import keyed_hash
from neuclip.loading.captions import Captions
from neuclip.loading.edits.eda import eda
from neuclip.loading.masked import Masked
from neuclip.loading.policies import (
    ORIGINAL,
    Caption,
    DrawingPolicy,
    Group,
    Same,
    TextsOf,
    ViewCaptions,
    draw,
    without,
)
from neuclip.loading.text_features import TextFeatures
from neuclip.loading.visits import MAIN, Visit, view_number

ToPixels = Callable[[bytes, np.random.Generator], UInt8[Tensor, "3 H W"]]
MaskTokens = Callable[
    [Int64[Tensor, "B L"], Sequence[Visit], str], tuple[Int64[Tensor, "B L"], Masked]
]
"""Hides tokens of a batch: tokens, the visits that its draws are keyed by, name of the view."""
ChoosePatches = Callable[[np.random.Generator], Int64[np.ndarray, " n"]]
Tokenize = Callable[[list[str], Sequence[Visit], str], Int64[Tensor, "B context"]]
"""Makes tokens of the texts of a batch: texts, the visits that its draws are keyed by, name of the view."""


@dataclass(frozen=True)
class ImageView:
    """How one view is made of an image file.

    Args:
        to_pixels: makes pixels of an image file and a random generator; raises DataError for a corrupt one.
        choose_patches: says which patches the tower reads, by a random generator; None is all.
    """

    to_pixels: ToPixels
    name: str = MAIN
    choose_patches: ChoosePatches | None = None

    def of(self, content: bytes, visit: Visit) -> UInt8[Tensor, "3 H W"]:
        """Return the pixels of one visit."""
        return self.to_pixels(content, visit.draws("image", self.name))

    def patches(self, visits: Sequence[Visit]) -> Int64[Tensor, "B n"] | None:
        """Return the patches of visits that the tower reads, None for all of them."""
        if self.choose_patches is None:
            return None
        kept = [self.choose_patches(visit.draws("patches", self.name)) for visit in visits]
        return torch.from_numpy(np.stack(kept))


@dataclass(frozen=True)
class TextView:
    """How one view is made of the texts of a sample.

    Args:
        policy: says which text; every draw is keyed by (seed, epoch, sample, view).
        tokenize: makes token ids of the chosen texts.
        of: the view that the policy leans on, where it does.
        mask: hides some of the tokens, where a loss has them guessed.
        features: gives features of the chosen texts in place of tokens.
    """

    policy: ViewCaptions
    tokenize: Tokenize
    name: str = MAIN
    of: "TextView | None" = None
    mask: MaskTokens | None = None
    features: TextFeatures | None = None

    @property
    def sources(self) -> list[str]:
        """The sources whose texts it may read at any visit."""
        if self.of is not None:
            return self.of.sources
        return list(dict.fromkeys([ORIGINAL, *self.policy.named()]))

    def choose(self, captions: Captions, shard: str, row: int, visit: Visit) -> Caption:
        """Return the text of a visit, edited if the policy says so.

        A sample with no text of the named sources gives its first one of any source; one that was taken down none.
        """
        caption = self._drawn(captions, shard, row, visit)
        if self.policy.edit is None:
            return caption
        text = eda(caption.text, visit.draws("eda", self.name))
        return caption if text == caption.text else caption._replace(text=text, is_edited=True)

    def _drawn(self, captions: Captions, shard: str, row: int, visit: Visit) -> Caption:
        """Return the text before the edit. What another view draws is drawn again: it depends on its key alone."""
        shown = self.of and self.of._drawn(captions, shard, row, visit)
        if shown is not None and isinstance(self.policy, Same):
            return shown
        groups = self._groups(partial(captions.texts, shard=shard, row=row), visit.epoch)
        if shown is not None:
            groups = without(groups, shown.text)
        if groups:
            return draw(groups, partial(visit.draws, "caption", self.name))
        return (shown or Caption(*captions.first(shard, row)))._replace(stands_in=True)

    def _groups(self, texts_of: TextsOf, epoch: int) -> list[Group]:
        if isinstance(self.policy, DrawingPolicy):
            return self.policy.groups(texts_of, epoch)
        assert self.of is not None, "a view that leans on another one has it"
        return self.of._groups(texts_of, epoch)


def text_ids(captions: Sequence[Caption], sample_ids: Sequence[int]) -> Int64[np.ndarray, " B"]:
    """Return a number for each text that is the same whenever this text of this sample is seen, and another's never.

    Of a sample, source and k: one-to-one for each source and k; two texts of different ones share a number as rarely
    as two of 2^64 draws. Sources that are added change no number. What edits make of a text has one number together.
    """
    keys = np.array(
        [_key(one.source, one.k, is_edited=one.is_edited) for one in captions], dtype=np.uint64
    )
    hashes = keyed_hash(np.asarray(sample_ids, dtype=np.uint64), seed=0) ^ keys
    return hashes.view(np.int64)


@cache
def _key(source: str, k: int, *, is_edited: bool) -> int:
    return view_number("edited text" if is_edited else "text", f"{source}/{k}")
