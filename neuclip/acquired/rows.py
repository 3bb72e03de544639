"""Outcome rows: what became of every row of the input."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.stages.ledger import Ledger, make_ledger

ROWS_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
"""One row for each row of the table, in its order.

status: `success` or `failed`; reason: one of acquired.reasons.REASONS, null on success; detail: the
downloader's own words; width, height: of the stored image, original_*: as downloaded, in pixels; sha256: of
the downloaded bytes; member, offset, size: name, first byte and bytes of the image in images.tar.
"""

_MESSAGES_A_REASON = 3

Record = dict[str, Any]
Messages = dict[str, dict[str, int]]
"""Reason -> the downloader's words -> how often."""


def write_rows(rows: list[Record], path: Path) -> tuple[Ledger, Messages]:
    """Write outcome rows and add them up."""
    pq.write_table(pa.Table.from_pylist(rows, schema=ROWS_SCHEMA), path, compression="zstd")
    dropped = Counter(row["reason"] for row in rows if row["reason"])
    ledger = make_ledger(len(rows), sum(row["status"] == "success" for row in rows), dict(dropped))
    return ledger, _messages(rows)


def add_messages(all_messages: list[Messages]) -> Messages:
    """Add up the most frequent messages of partitions."""
    counts: dict[str, Counter[str]] = {}
    for messages in all_messages:
        for reason, texts in messages.items():
            counts.setdefault(reason, Counter()).update(texts)
    return {r: dict(counts[r].most_common(_MESSAGES_A_REASON)) for r in sorted(counts)}


def _messages(rows: list[Record]) -> Messages:
    return add_messages([{row["reason"]: {row["detail"]: 1}} for row in rows if row.get("detail")])
