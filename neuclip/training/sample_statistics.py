"""What a run finds out about each sample: its last loss and log-normalizers, and how often it was seen.

Legend: N samples of the data set, G global batch, B local batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from torch import Tensor

from neuclip.distributed.collectives import all_gather
from neuclip.distributed.world import World
from neuclip.objectives.objective import ObjectiveResult

BYTES_A_SAMPLE = 20
_VALUES = ("log_normalizer_image", "log_normalizer_text", "loss")
_COUNTS = ("visits", "step")


@dataclass(frozen=True)
class _OnTheWay:
    """A global batch's numbers, on their way to the CPU."""

    sample_ids_G: Tensor
    values_GX: Tensor
    step: int
    copied: torch.cuda.Event | None


class SampleStatistics:
    """Keeps 20 bytes a sample on the CPU of the main rank; other ranks only hand theirs over.

    Of a sample that is in a batch twice the later place counts, and both visits.
    """

    def __init__(self, num_samples: int, world: World) -> None:
        self._world = world
        self._on_the_way: _OnTheWay | None = None
        kept = num_samples if world.is_main else 0
        self._values = {name: np.full(kept, np.nan, dtype=np.float32) for name in _VALUES}
        self._counts = {name: np.zeros(kept, dtype=np.int32) for name in _COUNTS}

    @torch.no_grad()
    def note(self, sample_ids: Int[Tensor, " B"], result: ObjectiveResult, *, step: int) -> None:
        """Take in what an update used; every rank calls it.

        A batch is stored when the next one comes, so that nothing waits for the device.

        Args:
            step: number of completed updates, this one included.
        """
        self._store()
        nothing = torch.full(sample_ids.shape, torch.nan, device=sample_ids.device)
        values = (*(result.log_normalizers or (None, None)), result.pair_losses)
        values_BX = torch.stack([nothing if v is None else v.float() for v in values], dim=1)
        values_GX = all_gather(values_BX, self._world)
        sample_ids_G = all_gather(sample_ids, self._world)
        if not self._world.is_main:
            return
        ids, numbers = (x.to("cpu", non_blocking=True) for x in (sample_ids_G, values_GX))
        copied = torch.cuda.Event() if values_GX.is_cuda else None
        if copied is not None:
            copied.record()
        self._on_the_way = _OnTheWay(ids, numbers, step, copied)

    def state(self) -> dict[str, Tensor]:
        """Return all of it, to be copied; empty on other ranks than the main one."""
        self._store()
        if not self._world.is_main:
            return {}
        return {
            name: torch.from_numpy(array) for name, array in (self._values | self._counts).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises: KeyError, ValueError: if it is of another number of samples, or of none.
        """
        self._on_the_way = None
        if not self._world.is_main:
            return
        for name, array in (self._values | self._counts).items():
            if len(state[name]) != len(array):
                raise ValueError(f"statistics of {len(state[name])} samples, not {len(array)}")
            array[:] = state[name].numpy()

    def write(self, path: Path) -> None:
        """Write a Parquet row for each sample, by id; what is not known is null."""
        self._store()
        columns: Mapping[str, npt.NDArray[np.generic]] = self._counts | self._values
        ids = np.arange(len(self._counts["visits"]), dtype=np.int64)
        table = pa.table(
            {"sample_id": ids}
            | {name: pa.array(array, from_pandas=True) for name, array in columns.items()}
        )
        pq.write_table(table, path, compression="zstd")

    def _store(self) -> None:
        """Store the batch that is on the way."""
        batch, self._on_the_way = self._on_the_way, None
        if batch is None:
            return
        if batch.copied is not None:
            batch.copied.synchronize()
        ids, values = batch.sample_ids_G.numpy(), batch.values_GX.numpy()
        for place, name in enumerate(_VALUES):
            self._values[name][ids] = values[:, place]
        np.add.at(self._counts["visits"], ids, 1)
        self._counts["step"][ids] = batch.step
