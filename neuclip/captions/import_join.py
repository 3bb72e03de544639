"""Imported texts brought to the pairs that their keys name, in DuckDB, which spills to disk."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquired.texts import ALT
from neuclip.captions.import_files import ImportReader, plain
from neuclip.captions.imports import Imported, ImportedLines
from neuclip.captions.parts import TextsOfPairs
from neuclip.foundation.errors import ConfigError, DataError, IntegrityError, nearest
from neuclip.stages.ledger import Ledger, make_ledger
from neuclip.storage.tables import ArrowTable, connect
from neuclip.table.rows import is_usable

log = logging.getLogger(__name__)

IMPORTED = "imported"
_ROWS_AT_ONCE = 8192
_TOLD_EVERY = 64 * _ROWS_AT_ONCE
_SHOWN_KEYS = 3
_SHOWN_CHARACTERS = 200
_LEAST_AGREEMENT = 0.6
"""Of lines with their own captions; below it they might as well stand in any order."""

# A pair is known by its key and, where rows must say what its own text is, by that text too: `match` is of both.
_HASHES = """
    ('0x' || sha256(key)[1:32])::UHUGEINT AS key, ('0x' || sha256(sha256(key) || own)[1:32])::UHUGEINT AS match"""
_TABLES = """
    CREATE TABLE pairs (key UHUGEINT, match UHUGEINT, part INTEGER, place INTEGER);
    CREATE TABLE rows (row BIGINT, key UHUGEINT, match UHUGEINT);
    CREATE TABLE texts (row BIGINT, n INTEGER, text VARCHAR)"""
_ADD_PAIRS = f"INSERT INTO pairs SELECT {_HASHES}, part, place FROM batch"  # noqa: S608  # no text from outside
_ADD_ROWS = f"INSERT INTO rows SELECT row, {_HASHES} FROM batch"  # noqa: S608  # likewise
_ADD_TEXTS = "INSERT INTO texts SELECT row, n, text FROM batch"
_FATES = """
    CREATE TABLE fates AS
    SELECT row, match, CASE
        WHEN known.key IS NULL THEN 'unknown_key'
        WHEN matched.match IS NOT NULL THEN if(is_kept, 'imported', 'not_kept')
        WHEN has_own THEN 'of_another' ELSE 'no_own_text' END AS fate
    FROM rows
    LEFT JOIN (SELECT key, bool_or(match IS NOT NULL) AS has_own FROM pairs GROUP BY key) known USING (key)
    LEFT JOIN (
        SELECT match, bool_or(place IS NOT NULL) AS is_kept FROM pairs WHERE match IS NOT NULL GROUP BY match
    ) matched USING (match)"""
_COUNTS = "SELECT fate, count(*) FROM texts JOIN fates USING (row) GROUP BY fate"
_FIRST_OF_ANOTHER = "SELECT min(row) FROM fates WHERE fate = 'of_another'"
_IS_ANY_KNOWN = "SELECT count(*) FROM fates WHERE fate <> 'unknown_key'"
_CHOSEN = """
    CREATE TABLE chosen AS
    SELECT row, n, match, row_number() OVER (PARTITION BY match ORDER BY row, n) AS rank FROM (
        SELECT row, n, match FROM texts JOIN fates USING (row) WHERE fate = 'imported'
        QUALIFY row_number() OVER (PARTITION BY match, sha256(text) ORDER BY row, n) = 1)"""
_KEPT_OF_CHOSEN = "SELECT count(*), count(*) FILTER (rank <= $most) FROM chosen"
_OF_PAIRS = """
    SELECT part, place, text FROM chosen JOIN texts USING (row, n) JOIN pairs USING (match)
    WHERE rank <= $most AND place IS NOT NULL ORDER BY part, place, row, n"""


@dataclass(frozen=True)
class PairsOfPartition:
    """The pairs of one partition, as imports see them.

    Args:
        rows: outcome rows.
        texts: row by row beside them.
        columns: with the kept columns, where there are some.
        kept: tells of each row whether it is a pair that curate keeps, given uids and statuses.
    """

    rows: Path
    texts: Path
    columns: Path | None
    kept: Callable[[ArrowTable], Iterable[bool]]


class ImportedTexts:
    """What came of an import, partition by partition.

    Args:
        ledger: of its texts.
        agreement: of files of lines, see `Alignment.finish`.
        path: Parquet of part, place among the kept pairs of the partition, text; in this order.
    """

    def __init__(
        self, source: str, ledger: Ledger, agreement: Mapping[str, float | None], path: Path
    ) -> None:
        self.source, self.ledger, self.agreement = source, ledger, agreement
        self._rows = _read_rows(path)
        self._next = next(self._rows, None)
        self._part = 0

    def take(self, uids: Sequence[str]) -> TextsOfPairs:
        """Return the texts of the next partition.

        Args:
            uids: of its kept pairs.
        """
        texts: dict[str, list[str]] = {}
        while self._next is not None and self._next[0] == self._part:
            _, place, text = self._next
            texts.setdefault(uids[place], []).append(text)
            self._next = next(self._rows, None)
        self._part += 1
        return list(texts.items())


def _read_rows(path: Path) -> Iterator[tuple[int, int, str]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            yield from zip(*(column.to_pylist() for column in batch), strict=True)


def import_texts(
    config: Imported,
    section: str,
    partitions: Sequence[PairsOfPartition],
    *,
    most: int,
    scratch: Path,
    tell: Callable[[int], None],
) -> ImportedTexts:
    """Read the files of an import, and find the pairs that its rows name.

    Every text has one outcome: imported, no_key, blank, unusable (endless or no UTF-8), unknown_key (no pair has it),
    not_kept (by acquire or curate), no_own_text (nothing to compare a caption with), repeated (again for the same key),
    or over_max_per_source. Texts of several rows with one key are all its texts, in order.

    Args:
        section: where the import stands in the recipe.
        partitions: all of acquire, in order.
        most: texts for a pair.
        scratch: a folder of its own.
        tell: is told now and then how many rows were read.
    Raises: DataError: as `ImportReader.rows`; if a caption is not the text of the pair that its key names, with
        the first such row; if no key is any pair's. ConfigError: for a key that is no column of the pairs.
    """
    scratch.mkdir(parents=True)
    reader = ImportReader(config, section)
    with connect(scratch) as connection:
        connection.execute(_TABLES)
        for number, partition in enumerate(partitions):
            batch = _pairs(config, section, partition, number)
            _insert(connection, _ADD_PAIRS, batch)
        outcomes = _read(connection, reader, tell)
        connection.execute(_FATES)
        _require_own(connection, config, section)
        _require_known(connection, config, section, partitions)
        outcomes.update(dict(connection.execute(_COUNTS).fetchall()))
        connection.execute(_CHOSEN)
        different, kept = connection.execute(_KEPT_OF_CHOSEN, {"most": most}).fetchall()[0]
        outcomes["repeated"] = outcomes[IMPORTED] - different
        outcomes["over_max_per_source"] = different - kept
        outcomes[IMPORTED] = kept
        path = scratch / "texts.parquet"
        in_order = connection.sql(_OF_PAIRS, params={"most": most}).to_arrow_reader(_ROWS_AT_ONCE)
        with pq.ParquetWriter(path, in_order.schema, compression="zstd") as writer:
            for batch in in_order:
                writer.write_batch(batch)
    entered = outcomes.pop("in")
    ledger = make_ledger(entered, outcomes.pop(IMPORTED), outcomes)
    ledger.check(f"{section} ({config.source})")
    _warn_of_disagreement(reader.agreement)
    return ImportedTexts(config.source, ledger, reader.agreement, path)


def _pairs(config: Imported, section: str, partition: PairsOfPartition, number: int) -> ArrowTable:
    """Return the pairs of a partition: key, own text, and place among those that are kept, null for others."""
    table = pq.read_table(partition.rows, columns=["uid", "url", "status"])
    places, count = list[int | None](), 0
    for is_kept in partition.kept(table):
        places.append(count if is_kept else None)
        count += is_kept
    needs_own = isinstance(config, ImportedLines) and config.key != ALT
    owns: list[list[str]] = [[""]] * len(places)
    if needs_own or config.key == ALT:
        texts = pq.read_table(partition.texts, columns=["uid", "captions"])
        if texts["uid"] != table["uid"]:
            raise IntegrityError(
                f"the texts {partition.texts} do not stand row by row beside {partition.rows}; "
                "run `--only acquire --force`"
            )
        rows = texts["captions"].to_pylist()
        owns = [list(dict.fromkeys(map(plain, dict(row or ()).get(ALT, [])))) for row in rows]
    if config.key == ALT:
        found = [
            (own, "", p) for own_texts, p in zip(owns, places, strict=True) for own in own_texts
        ]
    else:
        keys = _column(config.key, section, partition, table)
        found = [
            (key, own, place)
            for key, own_texts, place in zip(keys, owns, places, strict=True)
            for own in own_texts or [None]
            if key is not None
        ]
    keys, owns_of, places_of = zip(*found, strict=True) if found else ((), (), ())
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "own": pa.array(owns_of, pa.string()),
            "part": pa.array([number] * len(found), pa.int32()),
            "place": pa.array(places_of, pa.int32()),
        }
    )


def _column(
    key: str, section: str, partition: PairsOfPartition, table: ArrowTable
) -> list[str | None]:
    if key in ("uid", "url"):
        return table[key].to_pylist()
    names = [] if partition.columns is None else pq.read_schema(partition.columns).names[1:]
    if key not in names:
        known = ["url", "uid", ALT, *names]
        raise ConfigError(
            f"{section}.key is {key!r}, which pairs do not have; they have {', '.join(known)}.{nearest(key, known)} A "
            "column of the URL table travels with the pairs if acquire.keep_columns names it"
        )
    values = pq.read_table(partition.columns, columns=[key])[key].to_pylist()
    return [None if value is None else plain(str(value)) for value in values]


def _read(
    connection: duckdb.DuckDBPyConnection, reader: ImportReader, tell: Callable[[int], None]
) -> Counter[str]:
    """Fill `rows` and `texts` with what can be joined; count texts, and those that cannot."""
    outcomes: Counter[str] = Counter({"in": 0, IMPORTED: 0})
    rows = enumerate(reader.rows())
    while block := list(islice(rows, _ROWS_AT_ONCE)):
        if block[0][0] % _TOLD_EVERY == 0:
            tell(block[0][0])
        keyed = [(number, row) for number, row in block if row.key is not None]
        texts: list[tuple[int, int, str]] = []
        for number, row in block:
            outcomes["in"] += len(row.texts)
            for n, text in enumerate(row.texts):
                if (reason := _reason(row.key, text)) is None:
                    texts.append((number, n, str(text)))
                else:
                    outcomes[reason] += 1
        _insert(
            connection,
            _ADD_ROWS,
            pa.table(
                {
                    "row": pa.array([number for number, _ in keyed], pa.int64()),
                    "key": pa.array([row.key for _, row in keyed], pa.string()),
                    "own": pa.array([row.caption or "" for _, row in keyed], pa.string()),
                }
            ),
        )
        columns: Any = zip(*texts, strict=True) if texts else ((), (), ())
        kinds = (pa.int64(), pa.int32(), pa.string())
        arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
        _insert(connection, _ADD_TEXTS, pa.table(arrays, names=["row", "n", "text"]))
    return outcomes


def _reason(key: str | None, text: str | None) -> str | None:
    if key is None:
        return "no_key"
    if text is None or not text.strip():
        return "blank"
    return None if is_usable(text) else "unusable"


def _insert(connection: duckdb.DuckDBPyConnection, statement: str, batch: ArrowTable) -> None:
    connection.register("batch", batch)
    connection.execute(statement)
    connection.unregister("batch")


def _require_own(connection: duckdb.DuckDBPyConnection, config: Imported, section: str) -> None:
    """Refuse rows whose caption is another pair's: the table is shifted, or was written for other texts."""
    first = connection.execute(_FIRST_OF_ANOTHER).fetchall()[0][0]
    if first is None:
        return
    row = next(islice(ImportReader(config, section).rows(), first, None))
    raise DataError(
        f"{row.where} has the {config.key} {_shown(row.key)!r} and the caption {_shown(row.caption)!r}, which is no "
        f"alt text of the pair with that {config.key}: its columns are shifted against each other, or it is of other "
        f"texts; expected the caption of each pair as the URL table has it. Get the table anew, or set {section}.key "
        "to alt, which joins by the text itself"
    )


def _require_known(
    connection: duckdb.DuckDBPyConnection,
    config: Imported,
    section: str,
    partitions: Sequence[PairsOfPartition],
) -> None:
    """Refuse an import none of whose keys is a pair's."""
    if connection.execute(_IS_ANY_KNOWN).fetchall()[0][0]:
        return
    rows = ImportReader(config, section).rows()
    theirs = islice((row.key for row in rows if row.key is not None), _SHOWN_KEYS)
    ours = (
        key
        for number, partition in enumerate(partitions)
        for key in _pairs(config, section, partition, number)["key"].to_pylist()
    )
    raise DataError(
        f"no row of {section} ({config.source}) has a {config.key} that a pair has; there: {_listed(theirs)}; pairs "
        f"have: {_listed(islice(ours, _SHOWN_KEYS))}. Set {section}.key to what both have, and name the column or "
        "field that holds it"
    )


def _listed(keys: Iterator[str]) -> str:
    return ", ".join(repr(_shown(key)) for key in keys) or "none"


def _shown(text: str | None) -> str:
    return (text or "")[:_SHOWN_CHARACTERS]


def _warn_of_disagreement(agreement: Mapping[str, float | None]) -> None:
    for uri, share in agreement.items():
        if share is None or share < _LEAST_AGREEMENT:
            log.warning(
                "the lines of %s share no more words with their own captions than with those of other rows (%s of the "
                "comparisons), so nothing tells whether they are in order",
                uri,
                "none" if share is None else f"{share:.0%}",
            )
