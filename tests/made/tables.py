"""URL tables written by hand."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.config import AcquireConfig
from neuclip.acquired.partitions import rows_paths, texts_paths
from neuclip.table.plan import Partition, plan


def uid(number: int) -> str:
    return f"{number:032x}"


def write_table(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def plan_table(config: AcquireConfig, folder: Path, **more) -> list[Partition]:
    """Plan a table as acquire does."""
    return plan(
        config,
        fetch={"settings": config.fetch_settings()},
        partition_rows=config.partition_rows,
        refused=config.refuse.refusals,
        folder=folder,
        **more,
    )


def planned_rows(parts: list[Partition]) -> list[dict]:
    """Return the planned rows with their texts by source, which lie beside them."""
    return [
        beside(row, texts)
        for part in parts
        for row, texts in zip(part.rows(), pq.read_table(part.texts_path).to_pylist(), strict=True)
    ]


def committed_rows(acquire_uri: str) -> list[dict]:
    """Return the rows of a committed stage with their texts by source, which lie beside them."""
    return [
        beside(row, texts)
        for paths in zip(rows_paths(acquire_uri), texts_paths(acquire_uri), strict=True)
        for row, texts in zip(*(pq.read_table(path).to_pylist() for path in paths), strict=True)
    ]


def beside(row: dict, texts: dict) -> dict:
    assert row["uid"] == texts["uid"]
    assert not {"captions", "unusable"} & row.keys()
    return {**row, "captions": dict(texts["captions"]), "unusable": dict(texts["unusable"])}
