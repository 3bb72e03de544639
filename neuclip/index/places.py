"""The places of pairs in the shards of some parts, as a table of DuckDB that puts in order what belongs to pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from neuclip.shards.files import MEMBERS
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import part_uri

UID = "('0x' || uid[1:16])::UBIGINT AS uid_hi, ('0x' || uid[17:32])::UBIGINT AS uid_lo"
_PLACES = f"""
    INSERT INTO places SELECT {UID}, $first + file_row_number
    FROM read_parquet($members, file_row_number = true)"""  # noqa: S608
_SHARDS = """
    SELECT shard, count(*) FROM read_parquet($members, file_row_number = true)
    GROUP BY shard ORDER BY min(file_row_number)"""


@dataclass(frozen=True)
class Shard:
    """A tar: the part it is of, its name, and how many samples it has, held-out ones too."""

    part: str
    name: str
    samples: int


def place_pairs(
    connection: duckdb.DuckDBPyConnection, shard_uri: str, parts: Sequence[str]
) -> list[Shard]:
    """Fill table `places` with the pairs of parts by number, counted through all of them; return their shards."""
    connection.execute("CREATE TABLE places (uid_hi UBIGINT, uid_lo UBIGINT, place BIGINT)")
    shards: list[Shard] = []
    first = 0
    for part in parts:
        members = str(committed_file(part_uri(shard_uri, part), MEMBERS))
        connection.execute(_PLACES, {"members": members, "first": first})
        for name, count in connection.execute(_SHARDS, {"members": members}).fetchall():
            shards.append(Shard(part, str(name), int(count)))
            first += int(count)
    return shards
