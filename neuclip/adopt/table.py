"""The table of a ready-made shard, record by record, whatever bytes it holds."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.storage.cache import local_copy
from neuclip.storage.uris import name_of

Record = dict[str, Any]

_NEEDED = ("key", "status")
_BATCH_ROWS = 10_000


class UnreadableTableError(Exception):
    """The table of a shard breaks off, or is none of img2dataset's."""


def table_records(uri: str) -> Iterator[Record]:
    """Yield the records of a table; bytes that are not UTF-8 become lone surrogates.

    Raises: UnreadableTableError: where it cannot be read on.
    """
    path = local_copy(uri)
    try:
        with pq.ParquetFile(path) as file:
            for column in _NEEDED:
                if column not in file.schema_arrow.names:
                    raise UnreadableTableError(
                        f"{name_of(uri)} has no column {column!r}, which img2dataset writes; its columns are "
                        f"{', '.join(file.schema_arrow.names)[:300]}. acquire.adopt takes output of img2dataset and "
                        "DataComp; fetch other tables with acquire.table"
                    )
            for batch in file.iter_batches(_BATCH_ROWS):
                yield from _records_of(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableTableError(f"cannot read the table {name_of(uri)}: {error}") from error


def _records_of(batch: Any) -> list[Record]:  # noqa: ANN401  # pyarrow has no types
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        columns = {name: _as_bytes(batch.column(name)) for name in batch.schema.names}
        records = pa.RecordBatch.from_pydict(columns).to_pylist()
        return [{name: _decoded(value) for name, value in record.items()} for record in records]


def _as_bytes(column: Any) -> Any:  # noqa: ANN401
    """Return a column of texts, or of lists of texts, as one of bytes; others as they are."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.large_binary())
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return column.cast(pa.list_(pa.binary()))
    return column


def _decoded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return value
