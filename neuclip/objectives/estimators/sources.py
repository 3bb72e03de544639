"""Where prototypes restart from.

Legend: M prototypes a side, G global batch, N pairs drawn, D width, S side.
"""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuclip.objectives.estimators.recent_pairs import RecentPairs


class PrototypeSource(Protocol):
    """Gives contrasts (texts on side 0, images on side 1) with the ids of their pairs."""

    def add(self, contrasts_SGD: Float[Tensor, "2 G D"], sample_ids_G: Int[Tensor, " G"]) -> None:
        """Take in a global batch."""
        ...

    def held(self) -> tuple[Float[Tensor, "2 N D"], Int[Tensor, " N"]]:
        """Return at most M pairs, the same on all ranks."""
        ...

    @property
    def is_full(self) -> bool:
        """Tell whether M pairs are held."""
        ...


class PresentBatch(nn.Module):
    """The present batch alone: its last M pairs."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._held: tuple[Tensor, Tensor] | None = None

    @property
    def is_full(self) -> bool:
        """Tell whether the batch has M pairs."""
        return self._held is not None and len(self._held[1]) >= self.capacity

    @torch.no_grad()
    def add(self, contrasts_SGD: Float[Tensor, "2 G D"], sample_ids_G: Int[Tensor, " G"]) -> None:
        """Forget the last batch for this one."""
        self._held = contrasts_SGD[:, -self.capacity :], sample_ids_G[-self.capacity :]

    def held(self) -> tuple[Float[Tensor, "2 N D"], Int[Tensor, " N"]]:
        """Return the present batch."""
        if self._held is None:
            raise RuntimeError("no batch was added")
        return self._held


class IndexPairs(nn.Module):
    """Pairs of the sample index, drawn and encoded for each restart by whoever trains.

    They go from `take` to `held` within a step, so there is no state to save.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[Tensor, Tensor] | None = None

    @property
    def is_full(self) -> bool:
        """Tell whether pairs wait for a restart."""
        return self._held is not None

    def take(self, contrasts_SND: Float[Tensor, "2 N D"], sample_ids_N: Int[Tensor, " N"]) -> None:
        """Keep the pairs."""
        self._held = contrasts_SND, sample_ids_N

    def add(self, contrasts_SGD: Float[Tensor, "2 G D"], sample_ids_G: Int[Tensor, " G"]) -> None:
        """Leave the batch alone."""

    def held(self) -> tuple[Float[Tensor, "2 N D"], Int[Tensor, " N"]]:
        """Return the pairs, once: the next restart needs others."""
        if self._held is None:
            raise RuntimeError(
                "prototypes restart from the sample index at this step: encode what wanted() names "
                "and hand it to take() before"
            )
        held, self._held = self._held, None
        return held


def make_source(
    name: str, capacity: int, feature_dim: int
) -> RecentPairs | PresentBatch | IndexPairs:
    """Return the source of the recipe's name."""
    if name == "index":
        return IndexPairs()
    return PresentBatch(capacity) if name == "batch" else RecentPairs(capacity, feature_dim)
