"""Draws tokens of an answer with numbers that belong to its question alone.

Legend: B questions at once, T most tokens of an answer, P tokens before the next, V tokens known.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neuclip.foundation.randomness import generator
from neuclip.generation.config import Sampling


def uniforms(sampling: Sampling, items: list[str]) -> Float[Tensor, "B T"]:
    """Draw a number for each token of each answer: a pure function of the seed and what names the question."""
    drawn = [
        generator(
            sampling.seed,
            sample_id=int.from_bytes(hashlib.sha256(item.encode()).digest()[:8], "big"),
        ).random(sampling.max_tokens)
        for item in items
    ]
    return torch.from_numpy(np.stack(drawn))


class KeyedDraw:
    """Leaves one token possible at each place, so that the likeliest token is the drawn one.

    A `LogitsProcessor` of the transformers library. Definition: tokens from the likeliest down stand on a line of
    length 1, each as long as its probability at the temperature; what begins beyond `top_p` is cut off, and the token
    is taken that lies at the drawn share of what is left.

    Args:
        shares: from `uniforms`.
        first: tokens before the first that is drawn, padding included.
    """

    def __init__(self, sampling: Sampling, shares: Float[Tensor, "B T"], *, first: int) -> None:
        self._sampling = sampling
        self._shares = shares
        self._first = first

    def __call__(
        self, input_ids: Int64[Tensor, "B P"], scores: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        """Return scores that are -inf but for one token a row."""
        place = input_ids.shape[1] - self._first
        probabilities = (scores.double() / self._sampling.temperature).softmax(dim=-1)
        lengths, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        begins = lengths.cumsum(dim=-1) - lengths
        ends = (lengths * (begins < self._sampling.top_p)).cumsum(dim=-1)
        at = self._shares[:, place : place + 1].to(ends) * ends[:, -1:]
        drawn = tokens.gather(1, torch.searchsorted(ends, at))
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)
