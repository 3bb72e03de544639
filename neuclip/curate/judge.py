"""The rules of a recipe over a pool: for every pair, as bits, the reasons that drop it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from neuclip.acquired.texts import require_source
from neuclip.curate.conditions import NO_CAPTION, Condition, check_columns, conditions_of, number
from neuclip.curate.config import MOST_REASONS
from neuclip.curate.funnel import Bits
from neuclip.curate.groups import Dropped, drop_by_group
from neuclip.curate.pool import Pool
from neuclip.curate.rules import (
    Balance,
    GroupRule,
    OfText,
    OverGroups,
    RowRule,
    Sql,
    TopFraction,
    UidList,
    reason_of,
)
from neuclip.curate.uids import SubsetFile
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.ids import UID_LENGTH, as_integers
from neuclip.storage.tables import ArrowColumn, ArrowTable

Mask = Callable[[int, ArrowTable], npt.NDArray[np.bool_]]
"""(partition, position and uid of its pairs) -> which of them are dropped: what SQL over a row does not decide."""
_MISPLACED = np.uint64(1 << MOST_REASONS)


class Judge:
    """Judges the partitions of a pool one by one.

    Args:
        masks: what decides the rules that neither SQL nor groups do, by reason; those that are no rule's come first.
        scratch: verdicts of single rows wait there while groups are settled, 8 bytes a pair.

    Raises:
        ConfigError: if a rule does not fit the columns that the pairs have.
        DataError: if a fraction is asked of a pool without values, or a subset file is wrong.
    """

    def __init__(
        self,
        pool: Pool,
        rules: Sequence[RowRule | GroupRule],
        connection: duckdb.DuckDBPyConnection,
        *,
        seed: int,
        scratch: Path,
        masks: Mapping[str, Mask] | None = None,
    ) -> None:
        self.pool, self._connection, self._seed, self._scratch = pool, connection, seed, scratch
        self.reasons: list[str] = [NO_CAPTION.reason]
        self.places: dict[str, str] = {NO_CAPTION.reason: "every pair needs a caption"}
        self.subsets: dict[str, SubsetFile] = {}
        self.groups: dict[str, Dropped] = {}
        self._drops: dict[str, str] = {NO_CAPTION.reason: NO_CAPTION.drops}
        self._masks: dict[str, Mask] = {}
        self._group_rules: dict[str, GroupRule] = {}
        given = dict(masks or {})
        for reason in [reason for reason in given if reason not in map(reason_of, rules)]:
            self._add(reason, "curate.decontaminate")
            self._masks[reason] = given.pop(reason)
        places = [f"curate.rules.{place} ({rule.kind})" for place, rule in enumerate(rules)]
        for place, rule in zip(places, rules, strict=True):  # all of them before any data is read
            if isinstance(rule, OfText | Balance):
                require_source(rule.source, pool.sources, place=place)
            if not isinstance(rule, (OverGroups, UidList)) and reason_of(rule) not in given:
                conditions = conditions_of(rule, pool.columns, defaultdict(float))
                conditions += [Condition("", rule.keep)] if isinstance(rule, Sql) else []
                check_columns(conditions, pool.columns, place)
        for place, rule in zip(places, rules, strict=True):
            self._take(rule, place, given)
        if len(self.reasons) > MOST_REASONS:
            raise ConfigError(
                f"curate.rules has {len(self.reasons)} reasons to drop a pair, at most {MOST_REASONS} are possible; "
                "join some by a rule of kind sql"
            )

    def settle_groups(self) -> None:
        """Decide the rules over groups, each among the pairs that the rules before it keep."""
        for reason, rule in self._group_rules.items():
            earlier = np.uint64((1 << self.reasons.index(reason)) - 1)
            self.groups[reason] = self._by_group(rule, earlier)

    def alone(self) -> dict[str, int]:
        """Return what each rule over groups would drop of all pairs that have a caption."""
        return {
            reason: self._by_group(rule, np.uint64(1)).rows.num_rows
            for reason, rule in self._group_rules.items()
        }

    def verdicts(self, part: int) -> tuple[ArrowTable, Bits]:
        """Return position and uid of a partition's pairs in the order of the input, and their bits."""
        pairs, bits = self._row_verdicts(part)
        positions = pairs["position"].to_numpy()
        for reason, dropped in self.groups.items():
            places = np.searchsorted(positions, dropped.of_part(part))
            bits[places] |= self._bit(reason)
        return pairs, bits

    def _by_group(self, rule: GroupRule, earlier: np.uint64) -> Dropped:
        def alive(part: int) -> npt.NDArray[np.int64]:
            pairs, bits = self.verdicts(part)
            return pairs["position"].to_numpy()[(bits & earlier) == 0]

        return drop_by_group(
            rule, self.pool, alive, self._connection, seed=self._seed, scratch=self._scratch
        )

    def _row_verdicts(self, part: int) -> tuple[ArrowTable, Bits]:
        """Judge a partition by the rules over rows, or take what has been found before."""
        saved = self._scratch / f"bits-{part:08d}.npy"
        bits = "0::UBIGINT"
        if not saved.exists():
            terms = [
                f"CASE WHEN {drops} THEN {self._bit(reason)}::UBIGINT ELSE 0 END"
                for reason, drops in self._drops.items()
            ]
            bits = " | ".join(
                [*terms, f"CASE WHEN misplaced THEN {_MISPLACED}::UBIGINT ELSE 0 END"]
            )
        pairs = self._connection.sql(
            f"SELECT position, uid, {bits} AS bits FROM {self.pool.relation(part)}"
        ).to_arrow_table()
        if saved.exists():
            return pairs.drop_columns("bits"), np.load(saved)
        found: Bits = pairs["bits"].to_numpy().copy()
        if (found & _MISPLACED).any():
            raise self.pool.misplaced(part)
        pairs = pairs.drop_columns("bits")
        for reason, mask in self._masks.items():
            found[mask(part, pairs)] |= self._bit(reason)
        if self._group_rules:
            np.save(saved, found)
        return pairs, found

    def _bit(self, reason: str) -> np.uint64:
        return np.uint64(1 << self.reasons.index(reason))

    def _add(self, reason: str, place: str) -> None:
        if reason in self.places:
            raise ConfigError(
                f"{place}: the reason {reason!r} is taken by {self.places[reason]}; set another `name`"
            )
        self.reasons.append(reason)
        self.places[reason] = place

    def _take(self, rule: RowRule | GroupRule, place: str, masks: Mapping[str, Mask]) -> None:
        reason = reason_of(rule)
        if isinstance(rule, OverGroups):
            self._add(reason, place)
            self._group_rules[reason] = rule
        elif isinstance(rule, UidList):
            self._add(reason, place)
            self._masks[reason] = self._listed(rule)
        elif reason in masks:
            self._add(reason, place)
            self._masks[reason] = masks[reason]
        else:
            thresholds = self._thresholds(rule, place) if isinstance(rule, TopFraction) else {}
            for condition in conditions_of(rule, self.pool.columns, thresholds):
                self._add(condition.reason, place)
                self._drops[condition.reason] = condition.drops

    def _listed(self, rule: UidList) -> Mask:
        """Return what decides a rule over a subset file."""
        subset = self.subsets[reason_of(rule)] = SubsetFile(rule.file)

        def mask(part: int, pairs: ArrowTable) -> npt.NDArray[np.bool_]:
            del part
            return subset.contains(halves_of(pairs["uid"])) != (rule.listed == "keep")

        return mask

    def _thresholds(self, rule: TopFraction, place: str) -> dict[tuple[str, float], float]:
        """Return the least value that a fraction of the pool keeps: exact, by a sort that may spill to disk."""
        self._connection.execute("CREATE OR REPLACE TEMP TABLE ranked (value DOUBLE)")
        for part in self.pool.fetch_ahead():
            query = (
                f"INSERT INTO ranked SELECT {number(rule.column)} FROM {self.pool.relation(part)}"
            )
            self._connection.execute(query)
        counted = self._connection.execute("SELECT count(*), count(value) FROM ranked").fetchall()[
            0
        ]
        pairs, values = int(counted[0]), int(counted[1])
        if not values:
            raise DataError(
                f"{place}: none of {pairs} pairs has a number in column {rule.column!r}, so no fraction of them can "
                "be taken; name another column"
            )
        offset = min(int(pairs * rule.fraction), values - 1)
        query = (
            "SELECT value FROM ranked WHERE value IS NOT NULL ORDER BY value DESC LIMIT 1 OFFSET $1"
        )
        least = float(self._connection.execute(query, [offset]).fetchall()[0][0])
        self._connection.execute("DROP TABLE ranked")
        return {(rule.column, rule.fraction): least}


def halves_of(uids: ArrowColumn) -> npt.NDArray[np.uint64]:
    """Return a column of uids, 32 digits each, as [n, 2] integers."""
    column = uids.combine_chunks()
    first, digits = column.offset * UID_LENGTH, column.buffers()[2]
    if digits is None:
        return np.empty((0, 2), dtype=np.uint64)
    return as_integers(digits.to_pybytes()[first : first + len(column) * UID_LENGTH])
