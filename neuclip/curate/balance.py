"""MetaCLIP's balancing: pairs of frequent words are thinned out until no word rules the pool."""

import hashlib
from collections.abc import Callable

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.curate.conditions import quoted, text_of
from neuclip.curate.pool import Pool
from neuclip.curate.rules import Balance
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import as_integers
from neuclip.foundation.randomness import keyed_hash
from neuclip.foundation.text import split_lines
from neuclip.storage.files import read_bytes
from neuclip.storage.tables import ArrowTable

_WORD = r"[\pL\pN]+"
_BALANCE = 1
"""Tells this use of the seed from others."""


def balanced_out(
    rule: Balance,
    pool: Pool,
    alive: Callable[[int], npt.NDArray[np.int64]],
    connection: duckdb.DuckDBPyConnection,
    *,
    seed: int,
) -> ArrowTable:
    """Return the pairs that balancing drops: part, position, uid, keeper_uid, distance.

    Definition: with c_e the pairs whose text has entry e, a pair is kept if for any of its entries
    u(seed, uid, e) < most_per_entry / c_e, u uniform over 0 .. 1.
    """
    entries = read_entries(rule.metadata)
    connection.register("entries", pa.table({"entry": entries, "number": range(len(entries))}))
    longest = max(len(entry.split()) for entry in entries)
    _match(pool, alive, connection, text=text_of(rule.source), longest=longest)
    matches = connection.sql("SELECT place, entry FROM matches").fetchnumpy()
    looked_at = connection.sql(
        "SELECT part, position, uid, place FROM looked_at ORDER BY place"
    ).to_arrow_table()
    connection.unregister("entries")
    halves = as_integers("".join(looked_at["uid"].to_pylist()))
    place, entry = matches["place"].astype(np.int64), matches["entry"].astype(np.int64)
    counts = np.bincount(entry, minlength=len(entries))
    share = np.minimum(1.0, rule.most_per_entry / np.maximum(counts, 1))
    salts = np.array([_salt(text) for text in entries], dtype=np.uint64)
    mixed = keyed_hash(halves[:, 0], seed=seed, epoch=_BALANCE) ^ halves[:, 1]
    drawn = keyed_hash(mixed[place] ^ salts[entry], seed=seed, epoch=_BALANCE) / 2.0**64
    is_kept = np.zeros(looked_at.num_rows, dtype=bool)
    is_kept[place[drawn < share[entry]]] = True
    dropped = looked_at.filter(pa.array(~is_kept)).drop_columns("place")
    count = dropped.num_rows
    dropped = dropped.append_column("keeper_uid", pa.nulls(count, pa.string()))
    return dropped.append_column("distance", pa.nulls(count, pa.float32()))


def read_entries(uri: str) -> list[str]:
    """Read a list of words and phrases, each once, in lower case with single spaces, sorted.

    Raises: DataError: if there is none or the file is not UTF-8 text.
    """
    try:
        lines = split_lines(read_bytes(uri).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{uri} is no text in UTF-8 from byte {error.start} on; expected an entry a line"
        ) from error
    with duckdb.connect() as connection:
        connection.register("lines", pa.table({"line": pa.array(lines, pa.string())}))
        query = f"SELECT DISTINCT {_words('line')} AS entry FROM lines ORDER BY entry"
        entries = [str(entry) for (entry,) in connection.execute(query).fetchall() if entry]
    if not entries:
        raise DataError(f"{uri} has no entry; expected a word or phrase a line")
    return entries


def _match(
    pool: Pool,
    alive: Callable[[int], npt.NDArray[np.int64]],
    connection: duckdb.DuckDBPyConnection,
    *,
    text: str,
    longest: int,
) -> None:
    """Fill `looked_at` (part, position, uid, place 0 .. n-1) and `matches` (place, entry), each match once."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE looked_at (part INTEGER, position BIGINT, uid VARCHAR, place BIGINT)"
    )
    connection.execute("CREATE OR REPLACE TEMP TABLE matches (place BIGINT, entry BIGINT)")
    tokens = f"string_split({_words(text)}, ' ')"
    first = 0
    for part in pool.fetch_ahead():
        positions = alive(part)
        places = np.arange(first, first + len(positions))
        connection.register("alive", pa.table({"position": positions, "place": places}))
        source = f"{pool.relation(part)} JOIN alive USING (position)"
        connection.execute(f"INSERT INTO looked_at SELECT part, position, uid, place FROM {source}")
        connection.execute(
            f"""
            INSERT INTO matches
            WITH texts AS (SELECT place, {tokens} AS tokens FROM {source}),
            spans AS (
                SELECT place, array_to_string(tokens[start : start + length - 1], ' ') AS entry
                FROM texts, range(1, len(tokens) + 1) s(start), range(1, {longest + 1}) l(length)
                WHERE start + length - 1 <= len(tokens))
            SELECT DISTINCT place, number FROM spans JOIN entries USING (entry)"""
        )
        connection.unregister("alive")
        first += len(positions)


def _words(text: str) -> str:
    """Return the SQL of a text in lower case, its words apart by single spaces."""
    return (
        f"array_to_string(regexp_extract_all(lower(nfc_normalize({text})), {quoted(_WORD)}), ' ')"
    )


def _salt(entry: str) -> int:
    return int.from_bytes(hashlib.sha256(entry.encode()).digest()[:8], "big")
