"""The texts of a partition, apart from its images: a part of its own, so that another text column fetches nothing.

Text parts lie among acquire's parts. Partitions of different fetch settings share one, and `partitions.parquet` of the
stage says which partition has which.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.foundation.errors import ConfigError, nearest
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import Manifest
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.tables import ArrowTable

TEXTS = "texts.parquet"
"""Of a text part; row by row beside the rows of its partitions."""
TEXTS_VERSION = 1
"""Raised when what becomes of the same texts changes."""
TEXTS_SCHEMA = pa.schema(
    {
        "uid": pa.string(),
        "captions": pa.map_(pa.string(), pa.list_(pa.string())),
        "unusable": pa.map_(pa.string(), pa.int32()),
    }
)
"""captions: source -> its texts, those that can be used; unusable: source -> how many of its texts cannot."""

ALT = "alt"
"""The caption source that `acquire.caption_column` becomes."""

_SOURCES = "sources"


def chosen_texts(base: ArrowTable, uids: Sequence[str]) -> tuple[str, ArrowTable]:
    """Return key and table of a text part with rows of another; the first of a uid is the one that was fetched."""
    place = {uid: number for number, uid in reversed(list(enumerate(base["uid"].to_pylist())))}
    table = base.take([place[uid] for uid in uids])
    rows = [[row["uid"], dict(row["captions"]), dict(row["unusable"])] for row in table.to_pylist()]
    return texts_key(rows), table


def texts_key(rows: list[list[Any]]) -> str:
    """Return the key of a text part: of all that it holds, uid, captions and unusable of each row."""
    return digest({"texts_version": TEXTS_VERSION, "rows": rows})


def texts_identity(key: str, *, root: str, of: str) -> StageIdentity:
    """Return the identity of a text part.

    Args:
        of: the file of the input that the rows came from.
    """
    return StageIdentity(
        stage="acquire",
        stage_version=TEXTS_VERSION,
        key=key,
        section={},
        inputs={"texts": f"rows of {of}"},
        root=root,
        part=True,
    )


def write_texts(table: ArrowTable | Path, workspace: Workspace) -> Outcome:
    """Write a text part.

    The summary tells for every source how many texts it has, how many cannot be used, and a digest of all, by which
    what is made of one source is keyed.

    Args:
        table: of TEXTS_SCHEMA, or the Parquet file that it lies in.
    """
    texts = pq.read_table(table) if isinstance(table, Path) else table
    pq.write_table(texts, workspace.output / TEXTS, compression="zstd")
    rows = texts.num_rows
    return Outcome(make_ledger(rows, rows, {}), {_SOURCES: _sources(texts)})


def commit_texts(
    key: str, table: ArrowTable | Path, *, root: str, of: str, force: bool = False
) -> Manifest:
    """Commit a text part unless it is there; see `texts_identity` and `write_texts`."""
    identity = texts_identity(key, root=root, of=of)
    return commit_stage(identity, partial(write_texts, table), force=force)[0]


def is_text_part(part: Manifest) -> bool:
    """Tell a text part from a partition."""
    return _SOURCES in part.summary and "texts" in part.inputs


def source_digest(part: Manifest, source: str) -> str:
    """Return what changes with any text of a source in a text part; of a source without texts the same everywhere."""
    found = part.summary[_SOURCES].get(source)
    return "no texts" if found is None else str(found["digest"])


def require_source(source: str, counts: Collection[str], *, place: str) -> None:
    """Refuse a caption source that no pair has a text of; `alt` is never refused.

    Args:
        counts: the sources that there are, see `count_texts`.
        place: what of the recipe names it.
    Raises: ConfigError: with the sources that there are.
    """
    if source != ALT and source not in counts:
        known = ", ".join(counts) or "none"
        raise ConfigError(
            f"{place} names the caption source {source!r}, which no pair has a text of; sources here: {known}."
            f"{nearest(source, counts)} A column of the table becomes a source by acquire.caption_columns"
        )


def count_texts(parts: Iterable[Manifest]) -> dict[str, dict[str, int]]:
    """Return for every source of text parts how many texts it has, and how many of them cannot be used."""
    counts: dict[str, Counter[str]] = {}
    for part in parts:
        for source, found in part.summary[_SOURCES].items():
            counts.setdefault(source, Counter()).update(
                {name: found[name] for name in ("texts", "unusable")}
            )
    return {source: dict(counts[source]) for source in sorted(counts)}


def _sources(texts: ArrowTable) -> dict[str, dict[str, Any]]:
    captions = [dict(row or ()) for row in texts["captions"].to_pylist()]
    unusable = [dict(row or ()) for row in texts["unusable"].to_pylist()]
    names = sorted({name for row in (*captions, *unusable) for name in row})
    return {name: _source(name, captions, unusable) for name in names}


def _source(
    name: str, captions: Sequence[Mapping[str, list[str]]], unusable: Sequence[Mapping[str, int]]
) -> dict[str, Any]:
    texts = [row.get(name, []) for row in captions]
    lost = sum(row.get(name, 0) for row in unusable)
    return {
        "texts": sum(map(len, texts)) + lost,
        "unusable": lost,
        "digest": digest(texts),
    }
