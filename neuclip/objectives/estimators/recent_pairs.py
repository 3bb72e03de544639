"""The features of the pairs seen last, from which prototypes restart and among which neighbours are looked for.

Legend: M capacity, G pairs of a global batch, N pairs held, D embedding width,
S side of the anchor that is compared with them (0 holds texts, 1 holds images).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class RecentPairs(nn.Module):
    """A ring of the last M pairs with their sample ids, equal on all ranks.

    With M = number of prototypes it is what the last ceil(M / G) batches leave after dropping the
    oldest rows; of a batch larger than M it keeps the last M rows. Batches come shuffled, so
    these rows are a random sample, and prototypes need no order.

    Args:
        capacity: M.
        sides: how many kinds of features a pair has here.
    """

    contrasts_SMD: Tensor
    sample_ids_M: Tensor

    def __init__(self, capacity: int, feature_dim: int, *, sides: int = 2) -> None:
        super().__init__()
        self.capacity = capacity
        self.num_seen = 0
        self.register_buffer("contrasts_SMD", torch.zeros(sides, capacity, feature_dim))
        self.register_buffer("sample_ids_M", torch.zeros(capacity, dtype=torch.int64))

    def get_extra_state(self) -> Tensor:
        """Return the number of pairs ever seen; a tensor, as all state."""
        return torch.tensor(self.num_seen)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number of pairs ever seen from a saved state."""
        self.num_seen = int(state)

    @property
    def is_full(self) -> bool:
        """Tell whether M pairs are held."""
        return self.num_seen >= self.capacity

    @torch.no_grad()
    def add(self, contrasts_SGD: Float[Tensor, "S G D"], sample_ids_G: Int[Tensor, " G"]) -> None:
        """Take in a global batch, over the oldest pairs."""
        num_new = len(sample_ids_G)
        num_kept = min(num_new, self.capacity)
        first = self.num_seen + num_new - num_kept
        places = torch.arange(first, first + num_kept, device=sample_ids_G.device) % self.capacity
        kept_SGD = contrasts_SGD[:, num_new - num_kept :]
        self.contrasts_SMD[:, places] = kept_SGD.to(self.contrasts_SMD.dtype)
        self.sample_ids_M[places] = sample_ids_G[num_new - num_kept :]
        self.num_seen += num_new

    def held(self) -> tuple[Float[Tensor, "S N D"], Int[Tensor, " N"]]:
        """Return the pairs held and their sample ids, in no particular order."""
        num_held = min(self.num_seen, self.capacity)
        return self.contrasts_SMD[:, :num_held], self.sample_ids_M[:num_held]
