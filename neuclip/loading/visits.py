"""One visit of a sample in training: what its random draws are keyed by."""

import hashlib
from functools import cache
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import StringConstraints

from neuclip.foundation.randomness import generator

ViewName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
MAIN = "main"
"""The view that every batch has, of its images and of its texts."""

_OF_MAIN = {"image": 0, "caption": 1}


class Visit(NamedTuple):
    """A sample in an epoch.

    Args:
        seed: of the run.
    """

    seed: int
    epoch: int
    sample_id: int

    def draws(self, purpose: str, view: str = MAIN) -> np.random.Generator:
        """Return the random numbers of one purpose and view, which depend on nothing else.

        Args:
            purpose: `image`, `caption`, or the name of what draws.
        """
        number = view_number(purpose, view)
        return generator(self.seed, epoch=self.epoch, sample_id=self.sample_id, view=number)


@cache
def view_number(purpose: str, view: str) -> int:
    """Return the number that keys the draws of a view for a purpose; a new view changes no other's."""
    if view == MAIN and purpose in _OF_MAIN:
        return _OF_MAIN[purpose]
    digest = hashlib.blake2b(f"{purpose}/{view}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
