"""The texts of planned rows, as a text part holds them."""

from collections.abc import Iterable

import pyarrow as pa

from neuclip.acquired.texts import TEXTS_SCHEMA, texts_key
from neuclip.storage.tables import ArrowTable
from neuclip.table.rows import Row


def text_table(rows: Iterable[Row]) -> ArrowTable:
    """Return the texts of consecutive rows, a row each."""
    found = list(rows)
    return pa.table(
        {
            "uid": [row.uid for row in found],
            "captions": [list(row.captions.items()) for row in found],
            "unusable": [list(row.unusable.items()) for row in found],
        },
        schema=TEXTS_SCHEMA,
    )


def key_of_texts(rows: Iterable[Row]) -> str:
    """Return the key of the text part of rows of a table."""
    return texts_key([[row.uid, row.captions, row.unusable] for row in rows])
