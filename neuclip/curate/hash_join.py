"""Pairs of 64-bit hashes at a small Hamming distance, found by an equality join in DuckDB.

The 64 bits are cut into bands. Hashes that differ in at most r bits agree in at least bands - r whole bands,
whichever the bits are; so a join on the equality of every choice of that many bands misses no pair.
"""

import math
from collections.abc import Iterator
from itertools import combinations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

RADIUS = 4
"""Most bits that hashes of the same image may differ in."""

_ROWS_AT_ONCE = 1 << 16
_MOST_AGREEING = 4

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def near_hashes(
    connection: duckdb.DuckDBPyConnection,
    left: tuple[Indices, Hashes],
    right: tuple[Indices, Hashes],
) -> Iterator[tuple[Indices, Indices]]:
    """Yield pairs of ids whose hashes differ in at most RADIUS bits, chunk by chunk; each pair of hashes once.

    Args:
        left: ids and hashes; an id may come with several hashes.
        right: as left.
    """
    bands, agreeing = _best_bands(len(left[0]), len(right[0]))
    masks = [_mask(chosen, bands) for chosen in combinations(range(bands), agreeing)]
    for name, (ids, hashes) in (("left_hashes", left), ("right_hashes", right)):
        connection.register(name, pa.table({"id": ids, "hash": hashes}))
    try:
        for number, mask in enumerate(masks):
            reader = connection.sql(_query(mask, masks[:number])).to_arrow_reader(_ROWS_AT_ONCE)
            for batch in reader:
                yield batch["i"].to_numpy(), batch["j"].to_numpy()
    finally:
        connection.unregister("left_hashes")
        connection.unregister("right_hashes")


def _query(mask: int, earlier: list[int]) -> str:
    """Join on the bits of a mask; leave out what an earlier mask has found."""
    differing = "xor(l.hash, r.hash)"
    found = "".join(f" AND ({differing} & {other}::UBIGINT) <> 0" for other in earlier)
    return f"""
        SELECT l.id AS i, r.id AS j FROM left_hashes l JOIN right_hashes r
        ON (l.hash & {mask}::UBIGINT) = (r.hash & {mask}::UBIGINT)
        WHERE bit_count({differing}) <= {RADIUS}{found}"""


def _best_bands(num_left: int, num_right: int) -> tuple[int, int]:
    """Choose how many bands must agree: more bands are more joins, but fewer pairs agree by chance."""

    def cost(agreeing: int) -> float:
        bands = RADIUS + agreeing
        by_chance = num_left * num_right / 2 ** (64 * agreeing // bands)
        return math.comb(bands, agreeing) * (num_left + num_right + by_chance)

    agreeing = min(range(1, _MOST_AGREEING + 1), key=cost)
    return RADIUS + agreeing, agreeing


def _mask(chosen: tuple[int, ...], bands: int) -> int:
    """Return the bits of the chosen bands."""
    edges = [64 * band // bands for band in range(bands + 1)]
    return sum((1 << edges[band + 1]) - (1 << edges[band]) for band in chosen)
