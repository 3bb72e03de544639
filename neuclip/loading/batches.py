"""The stream of batches of one rank, from any step on."""

from collections.abc import Iterator

from torch.utils.data import DataLoader

from neuclip.loading.order import BatchOrder
from neuclip.loading.samples import Batch, ShardSamples


class _RankBatches:
    """The batch sampler: what to load for steps first .. last-1."""

    def __init__(self, order: BatchOrder, *, first: int, last: int, rank: int, size: int) -> None:
        self._order, self._first, self._last = order, first, last
        self._rank, self._size = rank, size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self._first, self._last):
            yield self._order.batch(step, rank=self._rank, size=self._size)

    def __len__(self) -> int:
        return self._last - self._first


def load_batches(
    samples: ShardSamples,
    order: BatchOrder,
    *,
    first: int,
    last: int,
    rank: int,
    size: int,
    workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """Yield this rank's share of global batches first .. last-1, in order, whatever the number of workers."""
    loader = DataLoader(
        samples,
        batch_sampler=_RankBatches(order, first=first, last=last, rank=rank, size=size),
        collate_fn=_as_it_is,  # pyright: ignore[reportArgumentType]  # __getitems__ gives a batch, not a list
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
    yield from loader


def _as_it_is(batch: Batch) -> Batch:
    """Return the batch: ShardSamples has put it together already."""
    return batch
