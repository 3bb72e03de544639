"""What a batch shows of its samples: views of their images, and views of their texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from neuclip.foundation.randomness import keyed_hash
from neuclip.loading.captions import Captions
from neuclip.loading.visits import MAIN, Visit, view_number

ToPixels = Callable[[bytes, np.random.Generator], UInt8[Tensor, "3 H W"]]
Tokenize = Callable[[list[str], Sequence[Visit], str], Int64[Tensor, "B context"]]
"""Makes tokens of the texts of a batch: texts, the visits that its draws are keyed by, name of the view."""


class Caption(NamedTuple):
    """A text of a sample: the k-th of a source. A sample without any has an empty one of no source."""

    text: str
    source: str = ""
    k: int = 0


@dataclass(frozen=True)
class ImageView:
    """How one view is made of an image file.

    Args:
        to_pixels: makes pixels of an image file and a random generator; raises DataError for a corrupt one.
    """

    to_pixels: ToPixels
    name: str = MAIN

    def of(self, content: bytes, visit: Visit) -> UInt8[Tensor, "3 H W"]:
        """Return the pixels of one visit."""
        return self.to_pixels(content, visit.draws("image", self.name))


@dataclass(frozen=True)
class TextView:
    """How one view is made of the texts of a sample.

    Args:
        weights: source -> weight it is drawn with among the sources a sample has.
        tokenize: makes token ids of the chosen texts.
    """

    weights: Mapping[str, float]
    tokenize: Tokenize
    name: str = MAIN

    @property
    def sources(self) -> list[str]:
        """The sources that are drawn at all."""
        return [source for source, weight in self.weights.items() if weight > 0]

    def choose(self, captions: Captions, shard: str, row: int, visit: Visit) -> Caption:
        """Draw a source among those the sample has, by weight, then one of its texts.

        A sample with none of the named sources gives its first text of any source; one that was taken down none.
        """
        texts = {
            source: found
            for source in self.sources
            if (found := captions.texts(source, shard, row))
        }
        if not texts:
            return Caption(*captions.first(shard, row))
        sources = list(texts)
        if len(sources) == 1 and len(texts[sources[0]]) == 1:
            return Caption(texts[sources[0]][0], sources[0])
        draw = visit.draws("caption", self.name).random(2)
        weights = [self.weights[source] for source in sources]
        goal, place = draw[0] * sum(weights), 0
        while place < len(sources) - 1 and goal >= weights[place]:
            goal -= weights[place]
            place += 1
        chosen = texts[sources[place]]
        k = int(draw[1] * len(chosen))
        return Caption(chosen[k], sources[place], k)


def text_ids(captions: Sequence[Caption], sample_ids: Sequence[int]) -> Int64[np.ndarray, " B"]:
    """Return a number for each text that is the same whenever this text of this sample is seen, and another's never.

    Of a sample, source and k: one-to-one for each source and k; two texts of different ones share a number as rarely
    as two of 2^64 draws. Sources that are added change no number.
    """
    keys = np.array([_key(caption.source, caption.k) for caption in captions], dtype=np.uint64)
    hashes = keyed_hash(np.asarray(sample_ids, dtype=np.uint64), seed=0) ^ keys
    return hashes.view(np.int64)


@cache
def _key(source: str, k: int) -> int:
    return view_number("text", f"{source}/{k}")
