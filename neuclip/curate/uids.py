"""Subset files: sorted uids as pairs of 64-bit integers, DataComp's format, read and written."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from neuclip.foundation.errors import DataError
from neuclip.storage.cache import local_copy

DTYPE = np.dtype("u8,u8")
"""First and last 16 hex digits of a uid as unsigned integers."""
_ROWS_AT_ONCE = 1 << 20

Halves = npt.NDArray[np.uint64]


class SubsetFile:
    """The uids of a subset file; a uid that stands there several times counts once.

    Raises: DataError: if the file is not a sorted `.npy` of dtype u8,u8.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        listed = _load(uri)
        first, last = (np.ascontiguousarray(listed[name]) for name in ("f0", "f1"))
        steps = _compare(first[:-1], last[:-1], first[1:], last[1:])
        if (steps > 0).any():
            place = int(np.argmax(steps > 0))
            raise DataError(
                f"{uri} is not sorted: uid {as_text(*listed[place].item())} at place {place} comes before "
                f"{as_text(*listed[place + 1].item())}; sort it with numpy.sort, as DataComp's tools do"
            )
        self.num_repeats = int((steps == 0).sum())
        is_new = np.ones(len(listed), dtype=bool)
        is_new[1:] = steps != 0
        self._first, self._last = first[is_new], last[is_new]
        self.num_found = 0

    def __len__(self) -> int:
        """Return the number of different uids."""
        return len(self._first)

    def contains(self, halves: Halves) -> npt.NDArray[np.bool_]:
        """Tell for uids, [n, 2], whether they are listed."""
        start = np.searchsorted(self._first, halves[:, 0], side="left")
        stop = np.searchsorted(self._first, halves[:, 0], side="right")
        found = np.zeros(len(halves), dtype=bool)
        offset = 0
        while len(left := np.flatnonzero(start + offset < stop)):  # nearly always one turn
            found[left] |= self._last[start[left] + offset] == halves[left, 1]
            offset += 1
        self.num_found += int(found.sum())
        return found


def write_subset(path: Path, halves: list[Halves]) -> int:
    """Write uids, each [n, 2], as a sorted subset file; return their number."""
    count = sum(len(part) for part in halves)
    every = np.concatenate([*halves, np.empty((0, 2), dtype=np.uint64)])
    order = np.argsort(every[:, 0])
    if (np.diff(every[order, 0]) == 0).any():
        order = np.lexsort((every[:, 1], every[:, 0]))
    target = np.lib.format.open_memmap(path, mode="w+", dtype=DTYPE, shape=(count,))
    flat = target.view(np.uint64).reshape(-1, 2)
    for start in range(0, count, _ROWS_AT_ONCE):
        flat[start : start + _ROWS_AT_ONCE] = every[order[start : start + _ROWS_AT_ONCE]]
    target.flush()
    return count


def as_text(first: int, last: int) -> str:
    """Return a uid as 32 hex digits."""
    return f"{first:016x}{last:016x}"


def _load(uri: str) -> npt.NDArray[np.void]:
    try:
        listed = np.load(local_copy(uri), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{uri} cannot be read as .npy: {error}") from error
    if listed.dtype != DTYPE or listed.ndim != 1:
        raise DataError(
            f"{uri} holds {listed.dtype} of shape {listed.shape}, expected one dimension of dtype u8,u8: the first "
            "and the last 16 hex digits of each uid as unsigned integers"
        )
    return listed


def _compare(first: Halves, last: Halves, next_first: Halves, next_last: Halves) -> Halves:
    """Return -1, 0 or 1 as a uid is below, equal to or above the next."""
    by_first = (first > next_first).astype(np.int8) - (first < next_first).astype(np.int8)
    by_last = (last > next_last).astype(np.int8) - (last < next_last).astype(np.int8)
    return np.where(by_first == 0, by_last, by_first)
