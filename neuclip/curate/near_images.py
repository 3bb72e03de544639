"""Images that look the same: candidates by perceptual hash, confirmed by their small pictures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from neuclip.curate.hash_join import HashedImages, Hashes, Indices, near_hashes
from neuclip.curate.pictures import PICTURE_BYTES, Pictures, picture_distance
from neuclip.foundation.errors import ShapeError
from neuclip.stages.committed import committed_file
from neuclip.storage.arrays import Array, MappedFiles, by_part
from neuclip.storage.tables import connect

HASHES_FILE = "hashes.npy"
"""uint64 [rows, NUM_HASHES], beside scores.parquet; zeros where there is no image."""
PICTURES_FILE = "pictures.npy"
"""uint8 [rows, PICTURE_BYTES]."""

_CUT = 0.02
CROPS = (
    (0.0, 0.0, 1.0, 1.0),
    (_CUT, _CUT, 1.0, 1.0),
    (0.0, _CUT, 1 - _CUT, 1.0),
    (_CUT, 0.0, 1.0, 1 - _CUT),
    (0.0, 0.0, 1 - _CUT, 1 - _CUT),
)
"""What is hashed of an image: all of it, and all but 2 % at two sides; left, top, right, bottom."""
NUM_HASHES = len(CROPS)

_MOST_PAIRS_IN_BLOCK = 2_000_000
SAME = 1.0
"""Distance of pictures up to which they show the same."""


class PictureTable:
    """Pictures of images that lie in several files, read as they are asked for."""

    def __init__(self, paths: Sequence[Path], parts: Indices, rows: Indices) -> None:
        self._files = MappedFiles(paths, _of(np.uint8, PICTURE_BYTES))
        self._parts, self._rows = parts, rows

    def __getitem__(self, images: Indices) -> Pictures:
        found = np.empty((len(images), PICTURE_BYTES), np.uint8)
        for part, here in by_part(self._parts[images]):
            found[here] = self._files[part][self._rows[images[here]]]
        return found


@dataclass(frozen=True)
class Descriptors:
    """What images are compared by."""

    hashes: Hashes
    """[n, NUM_HASHES]: of the whole image first; zeros where there is no image."""
    pictures: PictureTable | Pictures

    def __len__(self) -> int:
        return len(self.hashes)


def read_descriptors(folders: Sequence[str], parts: Indices, rows: Indices) -> Descriptors:
    """Open the descriptors of images in the folders of a score of kind `phash`.

    Args:
        folders: URIs of the score's folders, in the order of the partitions.
        parts: for each image the number of its folder.
        rows: for each image its row there.
    Raises: ShapeError: if a file has another width.
    """
    hashes = np.empty((len(parts), NUM_HASHES), np.uint64)
    files = MappedFiles(
        [committed_file(folder, HASHES_FILE) for folder in folders], _of(np.uint64, NUM_HASHES)
    )
    for part, here in by_part(parts):
        hashes[here] = files[part][rows[here]]
    paths = [committed_file(folder, PICTURES_FILE) for folder in folders]
    return Descriptors(hashes, PictureTable(paths, parts, rows))


def near_duplicates(descriptors: Descriptors, *, scratch: Path) -> npt.NDArray[np.int64]:
    """Find for each image, given best first, the image that stands for it.

    Definition: going through the images in order, i is a duplicate of the first kept j < i that looks the same;
    if there is none, i is kept. The result depends on nothing but images and order.

    Args:
        scratch: folder that DuckDB may spill to.
    Returns: keeper[i] = j, or i if it is kept.
    """
    keeper = np.arange(len(descriptors), dtype=np.int64)
    rest = np.flatnonzero(descriptors.hashes[:, 0])
    with connect(scratch) as connection:
        while len(rest):
            block, rest = _next_block(rest, descriptors.hashes)
            kept = _settle_block(connection, descriptors, block, keeper)
            rest = _settle_rest(connection, descriptors, kept, rest, keeper)
    return keeper


def look_alikes(
    connection: duckdb.DuckDBPyConnection,
    first: Descriptors,
    second: Descriptors,
    *,
    among_first: Indices | None = None,
    among_second: Indices | None = None,
    most: float = SAME,
) -> Iterator[tuple[Indices, Indices, npt.NDArray[np.float32]]]:
    """Yield (i, j, distance) of images i of the first and j of the second that look the same, in no order.

    Where both are one set, i < j.

    Args:
        among_first: ids of the images to look at, all that are there if not given.
        among_second: as among_first.
        most: largest distance.
    """
    left = _there(first) if among_first is None else among_first
    right = _there(second) if among_second is None else among_second
    for i, j in near_hashes(
        connection,
        HashedImages(left, first.hashes[left]),
        HashedImages(right, second.hashes[right]),
        is_ordered=first is second,
    ):
        distance = picture_distance(first.pictures[i], second.pictures[j])
        same = distance <= most
        yield i[same], j[same], distance[same]


def _next_block(rest: Indices, hashes: Hashes) -> tuple[Indices, Indices]:
    """Cut off as many of the best images as have no more than _MOST_PAIRS_IN_BLOCK pairs of equal hashes.

    Thousands of copies of one image would have millions of pairs. In blocks, all of them but a few thousand
    are compared with the kept one alone.
    """
    whole = hashes[rest, 0]
    order = np.argsort(whole, kind="stable")
    in_order = whole[order]
    starts = np.searchsorted(in_order, in_order)
    earlier_equal = np.empty(len(rest), np.int64)
    earlier_equal[order] = np.arange(len(rest)) - starts
    pairs = np.cumsum(earlier_equal)
    end = max(1, int(np.searchsorted(pairs, _MOST_PAIRS_IN_BLOCK, side="right")))
    return rest[:end], rest[end:]


def _settle_block(
    connection: duckdb.DuckDBPyConnection,
    descriptors: Descriptors,
    block: Indices,
    keeper: npt.NDArray[np.int64],
) -> Indices:
    """Find the duplicates within a block; return the images that are kept."""
    found = [
        np.stack([i, j])
        for i, j, _ in look_alikes(
            connection, descriptors, descriptors, among_first=block, among_second=block
        )
    ]
    better, worse = np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)
    order = np.lexsort((better, worse))
    for i, j in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if keeper[i] == i and keeper[j] == j:
            keeper[j] = i
    return block[keeper[block] == block]


def _settle_rest(
    connection: duckdb.DuckDBPyConnection,
    descriptors: Descriptors,
    kept: Indices,
    rest: Indices,
    keeper: npt.NDArray[np.int64],
) -> Indices:
    """Find the duplicates of kept images among the worse ones; return those that are left."""
    if not len(rest):
        return rest
    for i, j, _ in look_alikes(
        connection, descriptors, descriptors, among_first=kept, among_second=rest
    ):
        np.minimum.at(keeper, j, i)
    return rest[keeper[rest] == rest]


def _there(descriptors: Descriptors) -> Indices:
    """Return the images that there are."""
    return np.flatnonzero(descriptors.hashes[:, 0])


def _of(kind: type, width: int) -> Callable[[Path, Array], None]:
    """Return what refuses a file that does not hold rows of a kind and width."""

    def check(path: Path, array: Array) -> None:
        if array.dtype != kind or array.ndim != 2 or array.shape[1] != width:
            raise ShapeError(
                f"{path} holds {array.dtype} {list(array.shape)}, expected {np.dtype(kind)} [rows, {width}]; "
                "it was written by another version: run the stage again with --force"
            )

    return check
