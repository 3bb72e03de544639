"""The pairs that enter the stage, in DuckDB: known by uid and content, in the groups that are packed together."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.randomness import keyed_hash
from neuclip.storage.tables import few_at_once

_ORDER, _SPLIT = 0, 1
_BATCH_ROWS = 1 << 20
_PACKED_AT_ONCE = 1024

_UID = "('0x' || c.uid[1:16])::UBIGINT AS uid_hi, ('0x' || c.uid[17:32])::UBIGINT AS uid_lo"

_KEPT = "CREATE TABLE kept AS SELECT uid FROM read_parquet($verdicts) WHERE kept"

_FETCHED = """
    SELECT r.uid, r.url, r.width, r.height, r.sha256, r.member, r."offset", r.size, t.alt,
        $first + list_position($files, r.filename) - 1 AS partition, r.uid = t.uid AS is_beside
    FROM read_parquet($files, filename = true) r
    POSITIONAL JOIN (SELECT uid, captions['alt'][1] AS alt FROM read_parquet($texts)) t
    SEMI JOIN kept k ON r.uid = k.uid
    WHERE r.status = 'success'"""

_KEYS = f"""
    CREATE TABLE keys AS SELECT {_UID}, md5_number_lower(to_json({{
        'alt': c.alt, 'url': c.url, 'width': c.width, 'height': c.height,
        'size': c.size, 'sha256': c.sha256}})::VARCHAR) AS content FROM fetched c"""  # noqa: S608

_TAKE = """
    CREATE OR REPLACE TABLE entering AS
    SELECT k.uid_hi, k.uid_lo, k.content FROM keys k
    JOIN taken t ON k.uid_hi = t.uid_hi AND k.uid_lo = t.uid_lo WHERE t."group" = $group"""

_OTHERS = """
    SELECT k.uid_hi, k.uid_lo FROM keys k
    ANTI JOIN taken t ON k.uid_hi = t.uid_hi AND k.uid_lo = t.uid_lo"""

_GROUP = """
    INSERT INTO taken SELECT uid_hi, uid_lo,
        $first + (row_number() OVER (ORDER BY rank, uid_hi, uid_lo) - 1) // $size
    FROM ranked"""

_TWICE = "SELECT uid_hi, uid_lo FROM keys GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1"

_CONTENT = "SELECT uid_hi, uid_lo, content FROM entering ORDER BY uid_hi, uid_lo"

_PACKED = f"""
    SELECT uid, url, width, height, alt, partition, member, "offset", size
    FROM (SELECT c.*, {_UID} FROM fetched c)
    JOIN placed p USING (uid_hi, uid_lo) WHERE p.held_out = $held_out ORDER BY p.rank, uid"""  # noqa: S608


class Pairs:
    """All kept pairs of a run.

    A pair's `content` is 64 bits of a hash of its alt text, its URL and what acquire says of its image.

    Args:
        verdicts: curate's verdicts.
        rows: acquire's outcome rows, a table for each partition.
        texts: the texts of each partition, row by row beside its rows.
    Raises: IntegrityError: if verdicts and outcome rows do not hold the same uids, each once.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        verdicts: Path,
        rows: Sequence[Path],
        texts: Sequence[Path],
    ) -> None:
        self._connection = connection
        connection.execute(_KEPT, {"verdicts": str(verdicts)})
        for first, files in few_at_once(rows):
            beside = [str(path) for path in texts[first : first + len(files)]]
            verb = "INSERT INTO fetched" if first else "CREATE TABLE fetched AS"
            parameters = {"files": files, "texts": beside, "first": first}
            connection.execute(f"{verb} {_FETCHED}", parameters)
        connection.execute(_KEYS)
        connection.execute('CREATE TABLE taken (uid_hi UBIGINT, uid_lo UBIGINT, "group" BIGINT)')
        self.count = self._number("SELECT count(*) FROM keys")
        self._check(verdicts)

    def _check(self, verdicts: Path) -> None:
        expected = self._number("SELECT count(*) FROM kept")
        distinct = self._number("SELECT count(*) FROM (SELECT DISTINCT uid_hi, uid_lo FROM keys)")
        misplaced = self._number("SELECT count(*) FROM fetched WHERE NOT is_beside")
        if misplaced or not self.count == expected == distinct:
            twice = self._connection.execute(_TWICE).fetchall()
            example = (
                f"; a uid that is there twice is {int(twice[0][0]):016x}{int(twice[0][1]):016x}"
                if twice
                else ""
            )
            raise IntegrityError(
                f"{verdicts} keeps {expected} pairs, of which acquire's outcome rows hold {self.count} as fetched with "
                f"{distinct} different uids, and the texts of {misplaced} are another pair's{example}. The tables must "
                "hold the same pairs, each once: run `--from acquire --force`"
            )

    def whole_groups(self, pairs_path: Path) -> list[int]:
        """Return the sizes of the first groups of an earlier run of which every pair is still here, unchanged."""
        rows = self._connection.execute(
            """SELECT count(*), count(k.uid_hi) FROM read_parquet($1) p
            LEFT JOIN keys k ON p.uid_hi = k.uid_hi AND p.uid_lo = k.uid_lo AND p.content = k.content
            GROUP BY p."group" ORDER BY p."group" """,
            [str(pairs_path)],
        ).fetchall()
        sizes: list[int] = []
        for size, found in rows:
            if size != found:
                break
            sizes.append(int(size))
        return sizes

    def keep_groups(self, pairs_path: Path, count: int) -> None:
        """Take over the first `count` groups of an earlier run."""
        self._connection.execute(
            'INSERT INTO taken SELECT uid_hi, uid_lo, "group" FROM read_parquet($1) WHERE "group" < $2',
            [str(pairs_path), count],
        )

    def group_others(self, *, first: int, size: int, seed: int) -> range:
        """Put the pairs that are in no group into groups of a size, the last one smaller; return the groups.

        Which pairs come together depends on (seed, uid) alone, so that each group is a random part of all.

        Args:
            first: number of the first new group.
        """
        self._connection.execute(
            "CREATE OR REPLACE TABLE ranked (uid_hi UBIGINT, uid_lo UBIGINT, rank UBIGINT)"
        )
        with self._connection.cursor() as reading:
            for batch in reading.sql(_OTHERS).to_arrow_reader(_BATCH_ROWS):
                high, low = (np.asarray(column, dtype=np.uint64) for column in batch)
                rank = keyed_hash(_mixed(high, low, seed), seed=seed, epoch=_ORDER)
                table = pa.table([high, low, rank], names=list("hlr"))
                self._connection.from_arrow(table).insert_into("ranked")
        self._connection.execute(_GROUP, {"first": first, "size": size})
        others = self._number("SELECT count(*) FROM ranked")
        self._connection.execute("DROP TABLE ranked")
        return range(first, first + -(-others // size))

    def enter(self, group: int) -> int:
        """Choose the pairs of a group for the calls below; return how many they are."""
        self._connection.execute(_TAKE, {"group": group})
        return self._number("SELECT count(*) FROM entering")

    def digest(self) -> str:
        """Hash the uids and contents of the chosen pairs, in any order of the input the same; hex."""
        digest = hashlib.sha256()
        reader = self._connection.sql(_CONTENT).to_arrow_reader(_BATCH_ROWS)
        for batch in reader:
            digest.update(
                np.stack([np.asarray(column, dtype="<u8") for column in batch]).T.tobytes()
            )
        return digest.hexdigest()

    def place(self, *, seed: int, selection_share: float) -> None:
        """Split the chosen pairs and shuffle each split.

        Whether a pair is held out, and its rank in the order, depend on (seed, uid) alone.
        """
        self._connection.execute(
            "CREATE OR REPLACE TABLE placed (uid_hi UBIGINT, uid_lo UBIGINT, rank UBIGINT, held_out BOOLEAN)"
        )
        with self._connection.cursor() as reading:
            for batch in reading.sql("SELECT uid_hi, uid_lo FROM entering").to_arrow_reader(
                _BATCH_ROWS
            ):
                high, low = (np.asarray(column, dtype=np.uint64) for column in batch)
                mixed = _mixed(high, low, seed)
                is_held_out = keyed_hash(mixed, seed=seed, epoch=_SPLIT) < np.uint64(
                    selection_share * 2.0**64
                )
                rank = keyed_hash(mixed, seed=seed, epoch=_ORDER)
                table = pa.table([high, low, rank, is_held_out], names=list("hlrs"))
                self._connection.from_arrow(table).insert_into("placed")

    def write_packed(self, path: Path, *, held_out: bool) -> int:
        """Write the chosen pairs of a split in the order they are packed in; return how many they are."""
        parameters = {"held_out": held_out}
        with self._connection.cursor() as reading:
            rows = reading.sql(_PACKED, params=parameters).to_arrow_reader(_PACKED_AT_ONCE)
            with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
                count = 0
                for batch in rows:
                    writer.write_batch(batch)
                    count += batch.num_rows
        return count

    def write_groups(self, path: Path) -> None:
        """Write which pairs were packed together: group, uid_hi, uid_lo, content."""
        self._connection.sql(
            """SELECT t."group", k.uid_hi, k.uid_lo, k.content FROM keys k
            JOIN taken t ON k.uid_hi = t.uid_hi AND k.uid_lo = t.uid_lo ORDER BY 1, 2, 3"""
        ).write_parquet(str(path), compression="zstd")

    def _number(self, query: str, parameters: list[Any] | None = None) -> int:
        return int(self._connection.execute(query, parameters or []).fetchall()[0][0])


def _mixed(
    high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], seed: int
) -> npt.NDArray[np.uint64]:
    """Return what of a uid the random numbers of its pair are keyed by."""
    return keyed_hash(high, seed=seed) ^ low
