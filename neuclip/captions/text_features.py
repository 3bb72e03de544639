"""Features of texts as files: the rows of one part of the caption stage, each known by uid and k.

Legend: N texts, F width of a feature.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.captions.files import OK, TEXTS
from neuclip.foundation.errors import IntegrityError
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import part_uri

FEATURES = "features.npy"
"""Of a part: float16 [N, F], raw, in the order of ROWS."""
ROWS = "rows.parquet"
"""Of a part: which text each feature is of; k is null once the text was taken down."""
ROWS_SCHEMA = pa.schema({"uid": pa.string(), "k": pa.int32()})

FEATURE_PARTS = "features.parquet"
"""Of the stage: a row for each part, sources and partitions in the order of the caption stage's."""
FEATURE_PARTS_SCHEMA = pa.schema(
    {
        "source": pa.string(),
        "captions": pa.string(),
        "part": pa.string(),
        "texts": pa.int64(),
        "truncated": pa.int64(),
    }
)
"""captions: the caption stage's part whose texts were encoded."""
CAPTION_PART, ENCODER = "caption part", "encoder"
"""Inputs of a part's manifest: whose texts, and the encoder's fingerprint."""

Rows = npt.NDArray[np.float16]


class TextRow(NamedTuple):
    """A text that can be encoded."""

    uid: str
    k: int
    text: str


def texts_to_encode(caption_part_uri: str) -> tuple[list[TextRow], int]:
    """Return the usable texts of a caption part in order, and how many rows are of no use."""
    table = pq.read_table(
        committed_file(caption_part_uri, TEXTS), columns=["uid", "k", "text", "status"]
    )
    rows = [
        TextRow(row["uid"], row["k"], row["text"])
        for row in table.to_pylist()
        if row["status"] == OK and row["text"] is not None
    ]
    return rows, table.num_rows - len(rows)


def write_rows(folder: Path, rows: Sequence[TextRow]) -> None:
    """Write which texts the features of a part are of."""
    table = pa.table([[row.uid for row in rows], [row.k for row in rows]], schema=ROWS_SCHEMA)
    pq.write_table(table, folder / ROWS, compression="zstd")


def open_features(path: Path, *, rows: int | None, width: int) -> Rows:
    """Map a file of features, without reading them.

    Args:
        rows: how many it must have; None for any number.
    Raises: IntegrityError: if it is none, or holds something else.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{path} is no file of features: {error}; run `--only text_encoder --force`"
        ) from error
    if found.dtype != np.float16 or found.ndim != 2 or found.shape[1] != width:
        raise IntegrityError(
            f"{path} holds {found.dtype} {list(found.shape)}, expected float16 rows of width {width}, as the stage "
            "text_encoder writes them; run `--only text_encoder --force`"
        )
    if rows is not None and len(found) != rows:
        raise IntegrityError(
            f"{path} has {len(found)} features, expected {rows}, one for each text; run `--only text_encoder --force`"
        )
    return found


def feature_parts(text_encoder_uri: str) -> list[dict[str, str]]:
    """Return the rows of FEATURE_PARTS, with the folder of each part as `uri`."""
    rows = pq.read_table(committed_file(text_encoder_uri, FEATURE_PARTS)).to_pylist()
    return [{**row, "uri": part_uri(text_encoder_uri, row["part"])} for row in rows]
