"""Rules that choose among pairs: one of each group, or fewer of what is frequent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.curate.balance import balanced_out
from neuclip.curate.conditions import number
from neuclip.curate.near_images import near_duplicates, read_descriptors
from neuclip.curate.pool import Pool
from neuclip.curate.rules import (
    Balance,
    DuplicateImages,
    DuplicatePairs,
    GroupRule,
    NearDuplicateImages,
    SemanticDuplicates,
)
from neuclip.curate.semantic import semantic_duplicates
from neuclip.storage.tables import ArrowTable

Positions = npt.NDArray[np.int64]
Alive = Callable[[int], Positions]
"""Which rows of a partition's table a rule looks at: the pairs that the rules before it keep."""


@dataclass(frozen=True)
class Dropped:
    """What a rule over groups drops: rows of part, position, uid, keeper_uid, distance; sorted by part, position."""

    rows: ArrowTable

    def of_part(self, part: int) -> Positions:
        """Return the positions of a partition's dropped rows."""
        bounds = np.searchsorted(self.rows["part"].to_numpy(), [part, part + 1])
        return self.rows["position"].to_numpy()[bounds[0] : bounds[1]]


def drop_by_group(
    rule: GroupRule,
    pool: Pool,
    alive: Alive,
    connection: duckdb.DuckDBPyConnection,
    *,
    seed: int,
    scratch: Path,
) -> Dropped:
    """Find the pairs that a rule over groups drops; the order of partitions does not matter."""
    match rule:
        case DuplicatePairs():
            _gather(
                pool,
                alive,
                connection,
                key="CASE WHEN alt IS NOT NULL THEN to_json([url, alt]) END",
                best=[],
            )
            return Dropped(_all_but_best(connection))
        case DuplicateImages():
            _gather(pool, alive, connection, key="sha256", best=rule.best)
            return Dropped(_all_but_best(connection))
        case NearDuplicateImages():
            ranked, parts, positions = _ranked(pool, alive, connection, best=rule.best)
            descriptors = read_descriptors(pool.folders(rule.score), parts, positions)
            return _without_copies(ranked, near_duplicates(descriptors, scratch=scratch))
        case SemanticDuplicates():
            ranked, parts, positions = _ranked(pool, alive, connection, best=rule.best)
            features = pool.features(rule.score, parts, positions)
            keeper = semantic_duplicates(
                features, threshold=rule.threshold, clusters=rule.clusters, seed=seed
            )
            return _without_copies(ranked, keeper)
        case Balance():
            return Dropped(balanced_out(rule, pool, alive, connection, seed=seed))


def _gather(
    pool: Pool,
    alive: Alive,
    connection: duckdb.DuckDBPyConnection,
    *,
    key: str,
    best: Sequence[str],
) -> None:
    """Fill table `candidates`: part, position, uid, key, and what the better ones are known by, smallest best."""
    order = ", ".join([*(_preference(name) for name in best), "uid"])
    connection.execute("DROP TABLE IF EXISTS candidates")
    for part in pool.fetch_ahead():
        connection.register("alive", pa.table({"position": alive(part)}))
        start = "INSERT INTO candidates" if part else "CREATE TEMP TABLE candidates AS"
        connection.execute(
            f"{start} SELECT part, position, uid, {key} AS key, row({order}) AS rank "
            f"FROM {pool.relation(part)} JOIN alive USING (position)"
        )
        connection.unregister("alive")


def _all_but_best(connection: duckdb.DuckDBPyConnection) -> ArrowTable:
    """Return the candidates whose key a better one has; those without a key stand alone."""
    return connection.sql("""
        SELECT c.part, c.position, c.uid, b.uid AS keeper_uid, 0::FLOAT AS distance
        FROM candidates c JOIN (
            SELECT key, arg_min(uid, rank) AS uid FROM candidates
            WHERE key IS NOT NULL GROUP BY key HAVING count(*) > 1) b ON c.key = b.key
        WHERE c.uid <> b.uid ORDER BY c.part, c.position""").to_arrow_table()


def _ranked(
    pool: Pool, alive: Alive, connection: duckdb.DuckDBPyConnection, *, best: Sequence[str]
) -> tuple[ArrowTable, Positions, Positions]:
    """Return the candidates best first: part, position, uid; and the first two as integers."""
    _gather(pool, alive, connection, key="NULL", best=best)
    query = "SELECT part, position, uid FROM candidates ORDER BY rank"
    ranked = connection.sql(query).to_arrow_table()
    parts, positions = (ranked[name].to_numpy().astype(np.int64) for name in ("part", "position"))
    return ranked, parts, positions


def _without_copies(ranked: ArrowTable, keeper: Positions) -> Dropped:
    """Return the candidates that another one stands for."""
    dropped = np.flatnonzero(keeper != np.arange(len(keeper)))
    rows = ranked.take(dropped)
    rows = rows.append_column("keeper_uid", ranked["uid"].take(keeper[dropped]))
    rows = rows.append_column("distance", pa.nulls(len(dropped), pa.float32()))
    return Dropped(rows.sort_by([("part", "ascending"), ("position", "ascending")]))


def _preference(name: str) -> str:
    """Return what is smallest for the best pair; nulls come last."""
    match name.split():
        case ["longest_caption"]:
            return "-length(alt)"
        case ["largest_image"]:
            return "-(original_width::BIGINT * original_height)"
        case ["highest", column]:
            return f"coalesce(-{number(column)}, 'inf'::DOUBLE)"
        case [_, column]:
            return f"coalesce({number(column)}, 'inf'::DOUBLE)"
        case _:
            raise ValueError(name)
