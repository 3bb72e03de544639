"""Pairs of 64-bit hashes at a small Hamming distance, found by an equality join in DuckDB.

The 64 bits are cut into bands. Hashes that differ in at most r bits agree in at least bands - r whole bands,
whichever the bits are; so a join on the equality of every choice of that many bands misses no pair.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.storage.tables import ArrowTable

RADIUS = 4
"""Most bits that hashes of the same image may differ in."""

_ROWS_AT_ONCE = 1 << 14
_MOST_AGREEING = 4

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HashedImages:
    """Images with several hashes each."""

    ids: Indices
    hashes: Hashes
    """[n, H]: of the whole image first, then of its crops."""

    def whole(self) -> ArrowTable:
        """Return a row for each image."""
        return pa.table({"id": self.ids, "hash": self.hashes[:, 0]})

    def every(self) -> ArrowTable:
        """Return a row for each hash."""
        ids = np.repeat(self.ids, self.hashes.shape[1])
        return pa.table({"id": ids, "hash": self.hashes.ravel()})


def near_hashes(
    connection: duckdb.DuckDBPyConnection,
    left: HashedImages,
    right: HashedImages,
    *,
    is_ordered: bool = False,
) -> Iterator[tuple[Indices, Indices]]:
    """Yield ids i of the left and j of the right, chunk by chunk, each pair once, in no order.

    Definition: the hash of the whole of one of the two differs in at most RADIUS bits from any hash of the other.

    Args:
        is_ordered: yield pairs with i < j alone: for images held against themselves.
    """
    bands, agreeing = _best_bands(len(left.ids), right.hashes.size)
    masks = [_mask(chosen, bands) for chosen in combinations(range(bands), agreeing)]
    tables = {
        "left_whole": left.whole(),
        "left_every": left.every(),
        "right_whole": right.whole(),
        "right_every": right.every(),
    }
    for name, table in tables.items():
        connection.register(name, table)
    connection.execute("CREATE OR REPLACE TEMP TABLE near (i BIGINT, j BIGINT)")
    try:
        for number, mask in enumerate(masks):
            for sides in ("left_whole l JOIN right_every r", "left_every l JOIN right_whole r"):
                query = _query(sides, mask, masks[:number], is_ordered=is_ordered)
                connection.execute(f"INSERT INTO near {query}")
        pairs = connection.sql("SELECT DISTINCT i, j FROM near").to_arrow_reader(_ROWS_AT_ONCE)
        for batch in pairs:
            yield batch["i"].to_numpy(), batch["j"].to_numpy()
    finally:
        connection.execute("DROP TABLE IF EXISTS near")
        for name in tables:
            connection.unregister(name)


def _query(sides: str, mask: int, earlier: list[int], *, is_ordered: bool) -> str:
    """Join on the bits of a mask; leave out what an earlier mask has found."""
    differing = "xor(l.hash, r.hash)"
    conditions = [f"bit_count({differing}) <= {RADIUS}"]
    conditions += [f"({differing} & {other}::UBIGINT) <> 0" for other in earlier]
    conditions += ["l.id < r.id"] * is_ordered
    return f"""
        SELECT l.id AS i, r.id AS j FROM {sides}
        ON (l.hash & {mask}::UBIGINT) = (r.hash & {mask}::UBIGINT)
        WHERE {" AND ".join(conditions)}"""


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
