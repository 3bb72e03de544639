"""The order of the training data: which samples make up global batch t.

Legend: n samples, C canonical streams, G global batch, e epoch.
An epoch is a sequence of all n samples: the shards in a seeded permutation, each shard's samples in a
seeded permutation. The sequence is cut into C contiguous streams of n/C samples (to within one). Each stream
runs through its part of epoch 0, then of epoch 1, and so on; global batch t takes the next G/C samples of
every stream. So every epoch visits every sample exactly once, no batch is ever partial (a batch may hold
the end of one epoch and the start of the next), and the order depends on (seed, C, G) but not on ranks.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.randomness import permutation

_SHARD_ORDER_SALT = 0x5EED
_CACHED_SHARDS = 64


class BatchOrder:
    """Names the samples of every global batch.

    Args:
        shard_sizes: samples in each shard, in the order of `sample_id`.
        seed: of the permutations.
        streams: canonical streams C; divides the global batch.
        global_batch: samples in a batch over all ranks.
        first: step of the first batch of this size.
        samples_before: samples of all batches before it.

    Raises: ConfigError: if the batch is not a multiple of the streams or larger than the data.
    """

    def __init__(
        self,
        shard_sizes: npt.NDArray[np.int64],
        *,
        seed: int,
        streams: int,
        global_batch: int,
        first: int = 0,
        samples_before: int = 0,
    ) -> None:
        self._sizes = shard_sizes
        self._first = np.concatenate([[0], np.cumsum(shard_sizes)])
        self.count = int(self._first[-1])
        self._seed = seed
        self._per_stream = global_batch // streams
        self._first_step, self._before = first, samples_before // streams
        self.streams = streams
        if global_batch % streams:
            raise ConfigError(
                f"train.global_batch {global_batch} is not a multiple of train.streams {streams}"
            )
        if global_batch > self.count:
            raise ConfigError(
                f"train.global_batch {global_batch} is more than the {self.count} training samples; "
                "lower it, or curate less strictly"
            )
        self._bounds = (np.arange(streams + 1, dtype=np.int64) * self.count) // streams
        self._shard_order = lru_cache(maxsize=4)(self._compute_shard_order)
        self._within = lru_cache(maxsize=_CACHED_SHARDS + 2 * streams)(self._compute_within)

    def batch(self, step: int, *, rank: int = 0, size: int = 1) -> list[tuple[int, int]]:
        """Return (epoch, sample_id) of one rank's share of global batch `step` (0-based), in order.

        Ranks take equal runs of the streams, so their shares joined in rank order are the global batch.

        Raises: ConfigError: if the ranks do not divide the streams.
        """
        if self.streams % size:
            raise ConfigError(
                f"train.streams {self.streams} cannot be shared out to {size} ranks; "
                "use a number of ranks that divides it"
            )
        share = self.streams // size
        return [
            pair
            for stream in range(rank * share, (rank + 1) * share)
            for pair in self._stream(stream, step)
        ]

    def shards_ahead(self, step: int, *, rank: int = 0, size: int = 1) -> list[int]:
        """Return the shards that one rank reads from `step` on, as far as each stream's next shard.

        Those that are needed first come first.
        """
        share, ahead = self.streams // size, int(self._sizes.max()) + self._per_stream
        first_use: dict[int, int] = {}
        for stream in range(rank * share, (rank + 1) * share):
            for offset, shard in self._shards_of(stream, self._position(step), ahead):
                first_use[shard] = min(offset, first_use.get(shard, offset))
        return sorted(first_use, key=lambda shard: first_use[shard])

    def _shards_of(self, stream: int, position: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, shard) for the next `count` samples of a stream: where each shard's part of them begins."""
        start, length = self._part(stream)
        offset = 0
        while offset < count:
            epoch, inside = divmod(position + offset, length)
            shards, first = self._shard_order(epoch)
            place = int(np.searchsorted(first, start + inside, side="right")) - 1
            yield offset, int(shards[place])
            end = min(int(first[place + 1]), start + length)
            offset += end - (start + inside)

    def _position(self, step: int) -> int:
        """Return how many samples of each stream the batches before `step` have taken."""
        return self._before + (step - self._first_step) * self._per_stream

    def _part(self, stream: int) -> tuple[int, int]:
        """Return where a stream's part of an epoch begins, and its samples."""
        return int(self._bounds[stream]), int(self._bounds[stream + 1] - self._bounds[stream])

    def _stream(self, stream: int, step: int) -> list[tuple[int, int]]:
        start, length = self._part(stream)
        position, remaining = self._position(step), self._per_stream
        pairs: list[tuple[int, int]] = []
        while remaining:
            epoch, offset = divmod(position, length)
            taken = min(remaining, length - offset)
            ids = self._sequence(epoch, start + offset, taken)
            pairs.extend((epoch, sample_id) for sample_id in ids.tolist())
            position, remaining = position + taken, remaining - taken
        return pairs

    def _sequence(self, epoch: int, start: int, count: int) -> npt.NDArray[np.int64]:
        """Return `count` samples of an epoch's sequence from place `start` on."""
        shards, first = self._shard_order(epoch)
        pieces: list[npt.NDArray[np.int64]] = []
        place = int(np.searchsorted(first, start, side="right")) - 1
        while count:
            inside = start - int(first[place])
            ids = self._within(epoch, int(shards[place]))[inside : inside + count]
            pieces.append(ids)
            start, count, place = start + len(ids), count - len(ids), place + 1
        return np.concatenate(pieces)

    def _compute_shard_order(
        self, epoch: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the epoch's order of shards, and where each begins in the sequence."""
        order = permutation(len(self._sizes), seed=self._seed ^ _SHARD_ORDER_SALT, epoch=epoch)
        return order, np.concatenate([[0], np.cumsum(self._sizes[order])])

    def _compute_within(self, epoch: int, shard: int) -> npt.NDArray[np.int64]:
        """Return the epoch's order of one shard's samples."""
        return permutation(
            int(self._sizes[shard]), seed=self._seed, epoch=epoch, first=int(self._first[shard])
        )
