"""What the caption stage commits, for the stages below."""

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import part_uri

PARTS_FILE = "parts.parquet"
"""A row for each part, sources in order and their parts in the order of the input."""
PARTS_SCHEMA = pa.schema(
    {
        "source": pa.string(),
        "partition": pa.string(),
        "part": pa.string(),
        "pairs": pa.int64(),
        "texts": pa.int64(),
    }
)
"""partition: of acquire, whose kept pairs the texts are of; pairs: with a text of this source."""

TEXTS = "texts.parquet"
"""Of a part."""
TEXTS_SCHEMA = pa.schema(
    {
        "uid": pa.string(),
        "source": pa.string(),
        "k": pa.int32(),
        "text": pa.string(),
        "status": pa.string(),
    }
)
"""A text, known by (uid, source, k), k from 0 on; the texts of a pair stand together, pairs in the order of the input.

status: `ok`; null once the text was taken down, and is null too.
"""
OK = "ok"


def text_parts(caption_uri: str) -> dict[str, list[str]]:
    """Return the parts of a committed caption stage: source -> folders, in order."""
    folders: dict[str, list[str]] = {}
    for row in read_parts(caption_uri):
        folders.setdefault(row["source"], []).append(part_uri(caption_uri, row["part"]))
    return folders


def read_parts(caption_uri: str) -> list[dict[str, str]]:
    """Return the rows of PARTS_FILE."""
    return pq.read_table(committed_file(caption_uri, PARTS_FILE)).to_pylist()
