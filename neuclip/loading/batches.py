"""The stream of batches of one rank, from any step on."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager

from neuclip.loading.batch import Batch
from neuclip.loading.order import BatchOrder
from neuclip.loading.read_ahead import read_ahead
from neuclip.loading.samples import ShardSamples
from neuclip.loading.workers import Loading


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
    timeout_s: float = 1800.0,
) -> Generator[Batch]:
    """Yield this rank's share of global batches first .. last-1, in order, whatever the number of workers.

    Shards of a remote root are fetched ahead. Close it where it is left early.

    Raises: ConfigError: if the cache cannot hold the shards that are in use at once. As `load_lists`.
    """
    share = _RankBatches(order, first=first, last=last, rank=rank, size=size)
    with (
        _fetched_ahead(samples, order, first=first, rank=rank, size=size) as reached,
        closing(
            load_lists(samples, share, workers=workers, pin_memory=pin_memory, timeout_s=timeout_s)
        ) as batches,
    ):
        for step, batch in enumerate(batches, first):
            reached(step)
            yield batch


def load_lists(
    samples: ShardSamples,
    lists: Iterable[list[tuple[int, int]]],
    *,
    workers: int,
    pin_memory: bool,
    timeout_s: float = 1800.0,
) -> Generator[Batch]:
    """Yield a batch of each list of (epoch, sample_id), in order, whatever the number of workers.

    Raises: ChildError: if a loading process has ended, or does nothing for `timeout_s` seconds.
    """
    loading = Loading(samples, lists, workers=workers, pin_memory=pin_memory, timeout_s=timeout_s)
    try:
        yield from loading
    finally:
        loading.close()


@contextmanager
def _fetched_ahead(
    samples: ShardSamples, order: BatchOrder, *, first: int, rank: int, size: int
) -> Generator[Callable[[int], None]]:
    """Fetch the shards of the steps ahead, where they need fetching; give what to call at each step."""
    if not samples.files.are_remote:
        yield lambda _: None
        return

    def wanted(step: int) -> list[str]:
        return samples.names(order.shards_ahead(step, rank=rank, size=size))

    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun tells
    samples.require_room(wanted(first), processes=local_ranks)
    with read_ahead(wanted, samples.fetch, first=first) as reached:
        yield reached
