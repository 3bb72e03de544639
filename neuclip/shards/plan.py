"""Which pair goes where: split, order and id, all from the seed and the uids."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.foundation.randomness import keyed_hash
from neuclip.storage.tables import connect

_ORDER, _SPLIT = 0, 1

_PAIRS = """
    SELECT c.uid, c.captions, r.url, r.width, r.height, r.part, r.member, r."offset", r.size
    FROM read_parquet($captions) c
    JOIN (SELECT *, list_position($rows, filename) - 1 AS part
          FROM read_parquet($rows, filename = true) WHERE status = 'success') r ON c.uid = r.uid"""


@dataclass(frozen=True)
class ShardPlan:
    """The pairs of both splits, each in the order they are written in."""

    train: pa.Table
    selection: pa.Table


def plan_shards(
    captions_path: Path, rows_paths: list[Path], *, seed: int, selection_share: float, scratch: Path
) -> ShardPlan:
    """Split the pairs and shuffle each split.

    Whether a pair is held out depends on (seed, uid) alone, so it stays so when pairs are added. The order is
    that of the keyed hash of the uid.
    """
    parameters = {"captions": str(captions_path), "rows": [str(path) for path in rows_paths]}
    with connect(scratch) as connection:
        pairs = connection.sql(_PAIRS, params=parameters).to_arrow_table()
    high = np.array([int(uid[:16], 16) for uid in pairs["uid"].to_pylist()], dtype=np.uint64)
    low = np.array([int(uid[16:], 16) for uid in pairs["uid"].to_pylist()], dtype=np.uint64)
    mixed = keyed_hash(high, seed=seed) ^ low
    is_held_out = keyed_hash(mixed, seed=seed, epoch=_SPLIT) < np.uint64(selection_share * 2.0**64)
    rank = keyed_hash(mixed, seed=seed, epoch=_ORDER)
    return ShardPlan(
        train=_ordered(pairs, np.flatnonzero(~is_held_out), rank),
        selection=_ordered(pairs, np.flatnonzero(is_held_out), rank),
    )


def _ordered(pairs: Any, members: npt.NDArray[np.int64], rank: npt.NDArray[np.uint64]) -> Any:  # noqa: ANN401  # pyarrow has no types
    return pairs.take(members[np.argsort(rank[members], kind="stable")])
