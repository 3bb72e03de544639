"""Many `.npy` files with one row for each image, one mapped at a time: a mapping keeps its file open."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class MappedFiles(Sequence[Array]):
    """Arrays in files; each is mapped when it is asked for, and its file closed when the array is dropped.

    Args:
        paths: of the files, in order.
        check: takes path and array; raises if the file holds something else.
    """

    def __init__(
        self, paths: Sequence[Path], check: Callable[[Path, Array], None] | None = None
    ) -> None:
        self._paths, self._check = paths, check

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, place: int) -> Array: ...
    @overload
    def __getitem__(self, place: slice) -> "MappedFiles": ...
    def __getitem__(self, place: int | slice) -> "Array | MappedFiles":
        if isinstance(place, slice):
            return MappedFiles(self._paths[place], self._check)
        array: Array = np.load(self._paths[place], mmap_mode="r", allow_pickle=False)
        if self._check is not None:
            self._check(self._paths[place], array)
        return array


def by_part(parts: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Yield each part that occurs, ascending, with the places where it does, also ascending; in one sort."""
    order = np.argsort(parts, kind="stable")
    ends = np.flatnonzero(np.diff(parts[order])) + 1
    for places in np.split(order, ends) if len(order) else ():
        yield int(parts[places[0]]), places
