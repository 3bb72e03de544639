"""URL tables written by hand."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def uid(number: int) -> str:
    return f"{number:032x}"


def write_table(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)
