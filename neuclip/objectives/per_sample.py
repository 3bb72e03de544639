"""Numbers for every sample of the data set, shared out over the ranks.

Legend: N samples of the data set, R rows held here, C columns, G pairs of a global batch,
K number of ranks.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuclip.distributed.collectives import all_gather, all_reduce_sum_
from neuclip.distributed.world import World


class PerSample(nn.Module):
    """A table [N, C] of which rank r holds the rows of samples r, r + K, r + 2K, ...

    Args:
        initial: the C numbers that every sample starts with.
    """

    rows_RC: Tensor

    def __init__(self, initial: list[float], *, num_samples: int, world: World) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.world = world
        self.num_rows = -(-num_samples // world.size)
        start_C = torch.tensor(initial, dtype=torch.float32)
        # One row more takes what is written of samples that other ranks hold: no device is waited for.
        self.register_buffer("rows_RC", start_C.repeat(self.num_rows + 1, 1))

    def read(self, sample_ids_G: Int[Tensor, " G"]) -> Float[Tensor, "G C"]:
        """Return the rows of these samples; every rank asks for the same ones."""
        if self.world.size == 1:
            return self.rows_RC[sample_ids_G]
        is_here_G1 = (sample_ids_G % self.world.size == self.world.rank)[:, None]
        rows_GC = self.rows_RC[sample_ids_G // self.world.size]
        return all_reduce_sum_(torch.where(is_here_G1, rows_GC, 0.0), self.world)

    def write(self, sample_ids_G: Int[Tensor, " G"], values_GC: Float[Tensor, "G C"]) -> None:
        """Overwrite the rows of these samples; of a sample that comes twice the last row counts."""
        ordered_G, places_G = sample_ids_G.sort(stable=True)
        last_G = places_G[torch.searchsorted(ordered_G, sample_ids_G.contiguous(), right=True) - 1]
        is_here_G = sample_ids_G % self.world.size == self.world.rank
        rows_G = torch.where(is_here_G, sample_ids_G // self.world.size, self.num_rows)
        self.rows_RC[rows_G] = values_GC[last_G].to(self.rows_RC.dtype)

    def whole(self) -> Float[Tensor, "N C"]:
        """Return the table of all ranks in the order of sample ids; every rank has to call it."""
        held_RC = self.rows_RC[: self.num_rows]
        stacked_KRC = all_gather(held_RC, self.world).unflatten(0, (self.world.size, -1))
        return stacked_KRC.transpose(0, 1).flatten(0, 1)[: self.num_samples]

    def share_of(self, whole_NC: Float[Tensor, "N C"]) -> Float[Tensor, "R C"]:
        """Return this rank's rows of a whole table.

        Raises:
            ValueError: if it is of another number of samples.
        """
        if len(whole_NC) != self.num_samples:
            raise ValueError(f"expected {self.num_samples} samples, found {len(whole_NC)}")
        share_RC = self.rows_RC.clone()
        own_RC = whole_NC[self.world.rank :: self.world.size]
        share_RC[: len(own_RC)] = own_RC
        return share_RC
