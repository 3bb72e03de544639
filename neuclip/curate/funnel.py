"""The funnel: what each rule drops in its turn and alone, how rules overlap, and who survives."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.curate.conditions import SHORTER, column, quoted

Bits = npt.NDArray[np.uint64]
"""For each pair, bit i is set where reason i drops it."""

_MOST_BUCKETS = 30
_HISTOGRAM = "histogram "
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
        language: name of the column with a language, if there is one.
        measures: numbers that get a histogram: name -> SQL, and the least and the largest value.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        language: str | None,
        measures: Mapping[str, tuple[str, tuple[float, float]]],
    ) -> None:
        self._connection = connection.cursor()  # judging goes on at the same time
        sizes = " ".join(f"WHEN {SHORTER} < {px} THEN 'below {px} px'" for px in _SIZES_PX)
        self._kinds = {
            "domain": "coalesce(lower(split_part(split_part(url, '/', 3), ':', 1)), '')",
            "shorter_side": f"CASE {sizes} ELSE 'from {_SIZES_PX[-1]} px' END",
        }
        if language is not None:
            self._kinds["language"] = f"coalesce({column(language)}, 'none')"
        self._buckets = dict(self._kinds)
        self._widths = {name: _bin_width(*bounds) for name, (_, bounds) in measures.items()}
        for name, width in self._widths.items():
            binned = f"floor(({measures[name][0]}) / {width!r}::DOUBLE)::BIGINT"
            self._buckets[_HISTOGRAM + name] = f"coalesce(({binned})::VARCHAR, '')"
        self._connection.execute(
            "CREATE TEMP TABLE survival (kind VARCHAR, bucket VARCHAR, pairs BIGINT, kept BIGINT)"
        )

    def add(self, relation: str, kept: npt.NDArray[np.bool_]) -> None:
        """Count the pairs of a partition; `kept` stands row by row beside them."""
        names = [column(name) for name in self._buckets]
        made = ", ".join(f"{sql} AS {column(name)}" for name, sql in self._buckets.items())
        kinds = " ".join(
            f"WHEN grouping({column(name)}) = 0 THEN {quoted(name)}" for name in self._buckets
        )
        sets = ", ".join(f"({name})" for name in names)
        self._connection.register("verdicts", pa.table({"verdict_kept": kept}))
        self._connection.execute(
            f"INSERT INTO survival SELECT CASE {kinds} END, coalesce({', '.join(names)}), count(*), "
            f"count(*) FILTER (verdict_kept) FROM (SELECT {made} FROM {relation}) POSITIONAL JOIN verdicts "
            f"GROUP BY GROUPING SETS ({sets})"
        )
        self._connection.unregister("verdicts")

    def table(self) -> dict[str, list[dict[str, Any]]]:
        """Return for each kind its most frequent buckets, the rest as one: bucket, pairs, kept."""
        tables: dict[str, list[dict[str, Any]]] = {kind: [] for kind in self._kinds}
        for kind, bucket, pairs, kept in self._sums("pairs DESC, bucket"):
            if kind not in tables:
                continue
            rows = tables[kind]
            if len(rows) < _MOST_BUCKETS:
                rows.append({"bucket": bucket, "pairs": pairs, "kept": kept})
            elif len(rows) == _MOST_BUCKETS:
                rows.append({"bucket": "all others", "pairs": pairs, "kept": kept})
            else:
                rows[-1]["pairs"] += pairs
                rows[-1]["kept"] += kept
        return tables

    def histograms(self) -> dict[str, list[dict[str, float]]]:
        """Return for each measure its bins in order: least value, pairs, kept; values that are missing are left out."""
        found: dict[str, list[dict[str, float]]] = {name: [] for name in self._widths}
        for kind, place, pairs, kept in self._sums("try_cast(bucket AS BIGINT)"):
            name = kind.removeprefix(_HISTOGRAM)
            if kind.startswith(_HISTOGRAM) and place:
                least = round(int(place) * self._widths[name], 9)
                found[name].append({"least": least, "pairs": pairs, "kept": kept})
        return found

    def _sums(self, order: str) -> list[tuple[str, str, int, int]]:
        return self._connection.execute(
            "SELECT kind, bucket, sum(pairs)::BIGINT AS pairs, sum(kept)::BIGINT FROM survival "
            f"GROUP BY 1, 2 ORDER BY kind, {order}"
        ).fetchall()


def _bin_width(least: float, most: float) -> float:
    """Return a round width that gives 15 to 40 bins."""
    rough = max(most - least, 1e-6) / 40
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= rough)


def first_reason(bits: Bits) -> npt.NDArray[np.int8]:
    """Return the number of the first reason of each pair, -1 for one that is kept."""
    lowest = bits & (~bits + np.uint64(1))
    number = np.full(len(bits), -1, dtype=np.int8)
    dropped = bits != 0
    number[dropped] = np.log2(lowest[dropped].astype(np.float64)).astype(np.int8)
    return number


def _lowest(pattern: int) -> int:
    return (pattern & -pattern).bit_length() - 1
