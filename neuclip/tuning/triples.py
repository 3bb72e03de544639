"""The captions that an encoder is tuned on: pairs with texts of two kinds, and what is drawn of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from neuclip.captions.files import read_parts
from neuclip.captions.text_features import texts_to_encode
from neuclip.foundation.errors import DataError
from neuclip.foundation.randomness import generator, permutation
from neuclip.stages.manifest import part_uri

_VIEW = 21
"""Number of the draws of this module among all that a seed is for."""
_LEAST = 2


class TwoKinds(NamedTuple):
    """The texts of one image: short and long ones, at least one each."""

    short: list[str]
    long: list[str]


class Triple(NamedTuple):
    """A query, its instruction, the text that it looks for, and one that it does not."""

    instruction: str
    query: str
    positive: str
    negative: str


def read_pairs(caption_uri: str, *, short: str, long: str) -> list[TwoKinds]:
    """Return the texts of all pairs that have both sources, by uid, so that the order of partitions counts for nothing.

    Raises: DataError: if there are none.
    """
    texts: dict[str, TwoKinds] = {}
    for row in read_parts(caption_uri):
        if row["source"] not in (short, long):
            continue
        is_short = row["source"] == short
        for text in texts_to_encode(part_uri(caption_uri, row["part"]))[0]:
            both = texts.setdefault(text.uid, TwoKinds([], []))
            (both.short if is_short else both.long).append(text.text)
    found = [texts[uid] for uid in sorted(texts) if texts[uid].short and texts[uid].long]
    if len(found) < _LEAST:
        raise DataError(
            f"{len(found)} pairs have a text of both {short!r} and {long!r}, which text_encoder.tune draws from; name "
            "two sources of the same images in text_encoder.tune.short and .long"
        )
    return found


def split(
    pairs: Sequence[TwoKinds], *, held_out: int, seed: int
) -> tuple[list[TwoKinds], list[TwoKinds]]:
    """Return the pairs to tune on and those to measure on: at most a fifth of all."""
    order = permutation(len(pairs), seed=seed, epoch=_VIEW).tolist()
    most = min(held_out, len(pairs) // 5)
    kept = sorted(order[most:])
    return [pairs[n] for n in kept], [pairs[n] for n in sorted(order[:most])]


class Triples:
    """Triples of all pairs epoch by epoch; each is a function of (seed, epoch, pair) alone.

    Args:
        to_long, to_short: instructions before short and long queries.
    """

    def __init__(
        self, pairs: Sequence[TwoKinds], *, seed: int, to_long: str, to_short: str
    ) -> None:
        self._pairs, self._seed = pairs, seed
        self._to_long, self._to_short = to_long, to_short

    def batch(self, step: int, size: int) -> list[Triple]:
        """Return the triples of a step, counted from 0."""
        count = len(self._pairs)
        places = range(step * size, (step + 1) * size)
        orders = {
            epoch: permutation(count, seed=self._seed, epoch=epoch)
            for epoch in {place // count for place in places}
        }
        return [
            self._triple(place // count, int(orders[place // count][place % count]))
            for place in places
        ]

    def _triple(self, epoch: int, pair: int) -> Triple:
        draws = generator(self._seed, epoch=epoch, sample_id=pair, view=_VIEW)
        is_short = bool(draws.integers(2))
        other = (pair + 1 + int(draws.integers(len(self._pairs) - 1))) % len(self._pairs)
        own, another = self._pairs[pair], self._pairs[other]
        short, long = _one(own.short, draws), _one(own.long, draws)
        if is_short:
            return Triple(self._to_long, short, long, _one(another.long, draws))
        return Triple(self._to_short, long, short, _one(another.short, draws))


def _one(texts: Sequence[str], draws: np.random.Generator) -> str:
    return texts[int(draws.integers(len(texts)))]
