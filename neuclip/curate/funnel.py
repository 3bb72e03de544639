"""The funnel: what each rule drops in its turn and alone, how rules overlap, and who survives."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.curate.conditions import SHORTER, column

Bits = npt.NDArray[np.uint64]
"""For each pair, bit i is set where reason i drops it."""

_MOST_BUCKETS = 30
_SIZES_PX = (64, 128, 256, 512, 1024, 2048)


class Funnel:
    """Adds up verdicts, partition by partition.

    Args:
        reasons: in order of trial.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        self._reasons = reasons
        self._patterns: Counter[int] = Counter()

    def add(self, bits: Bits) -> None:
        """Take in the verdicts of a partition."""
        patterns, counts = np.unique(bits, return_counts=True)
        self._patterns.update(dict(zip(patterns.tolist(), counts.tolist(), strict=True)))

    @property
    def num_pairs(self) -> int:
        """Number of pairs judged."""
        return sum(self._patterns.values())

    @property
    def num_kept(self) -> int:
        """Number of pairs that no rule drops."""
        return self._patterns[0]

    def dropped(self) -> dict[str, int]:
        """Return how many pairs each reason, the first that fails, drops."""
        dropped = dict.fromkeys(self._reasons, 0)
        for pattern, count in self._patterns.items():
            if pattern:
                dropped[self._reasons[_lowest(pattern)]] += count
        return dropped

    def steps(self, alone: Mapping[str, int]) -> list[dict[str, Any]]:
        """Return for each reason: dropped in order and alone, kept after it, and what other reasons drop too.

        Args:
            alone: what a rule over groups drops of all pairs; the verdicts tell what it drops in its turn.
        """
        steps: list[dict[str, Any]] = []
        left, dropped = self.num_pairs, self.dropped()
        for number, reason in enumerate(self._reasons):
            left -= dropped[reason]
            overlap = {
                other: self._both(number, place) for place, other in enumerate(self._reasons)
            }
            del overlap[reason]
            steps.append(
                {
                    "reason": reason,
                    "dropped": dropped[reason],
                    "kept": left,
                    "alone": alone.get(reason, self._both(number, number)),
                    "overlap": {other: count for other, count in overlap.items() if count},
                }
            )
        return steps

    def _both(self, one: int, other: int) -> int:
        wanted = 1 << one | 1 << other
        return sum(count for pattern, count in self._patterns.items() if pattern & wanted == wanted)


class Survival:
    """Counts pairs and kept pairs by bucket in a table that may spill to disk.

    Args:
        columns: names of a pair's columns.
        language: name of the column with a language, if there is one.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        columns: Mapping[str, str],
        language: str | None,
    ) -> None:
        self._connection = connection.cursor()  # judging goes on at the same time
        sizes = " ".join(f"WHEN {SHORTER} < {px} THEN 'below {px} px'" for px in _SIZES_PX)
        self._buckets = {
            "domain": "coalesce(lower(split_part(split_part(url, '/', 3), ':', 1)), '')",
            "shorter_side": f"CASE {sizes} ELSE 'from {_SIZES_PX[-1]} px' END",
        }
        if language is not None and language in columns:
            self._buckets["language"] = f"coalesce({column(language)}, 'none')"
        self._connection.execute(
            "CREATE TEMP TABLE survival (kind VARCHAR, bucket VARCHAR, pairs BIGINT, kept BIGINT)"
        )

    def add(self, relation: str, kept: npt.NDArray[np.bool_]) -> None:
        """Count the pairs of a partition; `kept` stands row by row beside them."""
        names = ", ".join(self._buckets)
        made = ", ".join(f"{sql} AS {name}" for name, sql in self._buckets.items())
        sets = ", ".join(f"({name})" for name in self._buckets)
        kinds = " ".join(f"WHEN grouping({name}) = 0 THEN '{name}'" for name in self._buckets)
        self._connection.register("verdicts", pa.table({"kept": kept}))
        self._connection.execute(
            f"INSERT INTO survival SELECT CASE {kinds} END, coalesce({names}), count(*), count(*) FILTER (kept) "
            f"FROM (SELECT {made} FROM {relation}) POSITIONAL JOIN verdicts GROUP BY GROUPING SETS ({sets})"
        )
        self._connection.unregister("verdicts")

    def table(self) -> dict[str, list[dict[str, Any]]]:
        """Return for each kind its most frequent buckets, the rest as one: bucket, pairs, kept."""
        found = self._connection.execute(
            "SELECT kind, bucket, sum(pairs)::BIGINT AS pairs, sum(kept)::BIGINT FROM survival "
            "GROUP BY 1, 2 ORDER BY kind, pairs DESC, bucket"
        ).fetchall()
        tables: dict[str, list[dict[str, Any]]] = {kind: [] for kind in self._buckets}
        for kind, bucket, pairs, kept in found:
            rows = tables[kind]
            if len(rows) < _MOST_BUCKETS:
                rows.append({"bucket": bucket, "pairs": pairs, "kept": kept})
            elif len(rows) == _MOST_BUCKETS:
                rows.append({"bucket": "all others", "pairs": pairs, "kept": kept})
            else:
                rows[-1]["pairs"] += pairs
                rows[-1]["kept"] += kept
        return tables


def first_reason(bits: Bits) -> npt.NDArray[np.int8]:
    """Return the number of the first reason of each pair, -1 for one that is kept."""
    lowest = bits & (~bits + np.uint64(1))
    number = np.full(len(bits), -1, dtype=np.int8)
    dropped = bits != 0
    number[dropped] = np.log2(lowest[dropped].astype(np.float64)).astype(np.int8)
    return number


def _lowest(pattern: int) -> int:
    return (pattern & -pattern).bit_length() - 1
