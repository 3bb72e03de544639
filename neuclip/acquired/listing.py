"""`partitions.parquet` of the stage: which partition holds which rows, and the slices of runs before this one."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import committed_manifests
from neuclip.storage.uris import join

PARTITIONS_FILE = "partitions.parquet"

LISTING_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("texts", pa.string()),
        ("file", pa.string()),
        ("first_row", pa.int64()),
        ("rows", pa.int64()),
        ("out", pa.int64()),
        ("first_uid", pa.string()),
        ("repairs", pa.string()),
        ("round", pa.int32()),
    ]
)
"""One row for each partition in order.

texts: the part with its texts, row by row beside it; first_row: of the file, null in a retry, whose rows are not
consecutive; first_uid: of its first row; repairs: of a retry, the partition whose failed rows it holds again; round: 0,
in a retry which repair it came from.
"""


@dataclass(frozen=True)
class Listed:
    """One row of the listing."""

    part: str
    texts: str
    file: str
    first_row: int | None
    rows: int
    out: int
    first_uid: str | None = None
    repairs: str | None = None
    round: int = 0


@dataclass(frozen=True)
class KnownSlice:
    """Rows that a run before this one made a partition of."""

    rows: int
    key: str


KnownSlices = Mapping[str, list[KnownSlice]]
"""uid of the first row -> slices that begin with it, those of the newest run first."""


def write_listing(rows: Iterable[Listed], path: Path) -> None:
    """Write partitions.parquet."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=LISTING_SCHEMA)
    pq.write_table(table, path)


def read_listing(stage_uri: str) -> list[dict[str, Any]]:
    """Read the listing of a committed acquire stage; one that was written without a column lacks it."""
    return pq.read_table(committed_file(stage_uri, PARTITIONS_FILE)).to_pylist()


def known_slices(acquire_uri: str) -> KnownSlices:
    """Return the slices of committed runs at a root.

    Slices of other settings are among them: a slice counts only where the key of the rows found now is its key, and
    a key holds the settings.

    Args:
        acquire_uri: the root's folder of all acquire stages.
    """
    known: dict[str, list[KnownSlice]] = {}
    for manifest in committed_manifests(acquire_uri):
        if PARTITIONS_FILE not in {file.name for file in manifest.files}:
            continue
        for row in read_listing(join(acquire_uri, manifest.key)):
            if row.get("first_uid") is None or row.get("repairs") is not None:
                continue
            found = KnownSlice(row["rows"], row["part"])
            beginning = known.setdefault(row["first_uid"], [])
            if found not in beginning:
                beginning.append(found)
    return known
