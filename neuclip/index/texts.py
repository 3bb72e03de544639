"""Side files of texts: the captions of all samples in the order of their shards, from the caption stage's parts."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.captions.files import TEXTS, read_parts
from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.progress import Progress
from neuclip.index.places import UID, Shard, place_pairs
from neuclip.index.side_files import (
    SAMPLES,
    SHARD_PART,
    SIDE_FILES,
    SIDE_FILES_SCHEMA,
    texts_name,
    write_texts,
)
from neuclip.shards.files import MEMBERS
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import Manifest, is_committed, part_uri, read_manifest, verify_sizes
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.tables import connect, few_at_once
from neuclip.storage.uris import join, name_of, parent_of

STAGE = "index"
TEXTS_VERSION = 1
"""Raised when other side files come of the same texts."""
_ROWS_AT_ONCE = 4096

_TEXTS = f"""
    SELECT {UID}, list(text ORDER BY k) AS texts
    FROM read_parquet($files) WHERE status = 'ok' GROUP BY uid"""  # noqa: S608
_NO_TEXTS = "CREATE TABLE texts (uid_hi UBIGINT, uid_lo UBIGINT, texts VARCHAR[])"
_WITHOUT_SAMPLE = "SELECT count(*) FROM texts ANTI JOIN places USING (uid_hi, uid_lo)"
_IN_ORDER = """
    SELECT place, texts FROM places JOIN texts USING (uid_hi, uid_lo) ORDER BY place"""


@dataclass(frozen=True)
class _Known:
    """Side parts of an earlier index that can be taken over, and the caption parts that are still to be read."""

    side_parts: list[str]
    """For the first parts of the shards."""
    unread: list[str]


def build_text_files(
    shard_uri: str,
    caption_uri: str,
    *,
    root: str,
    workspace: Workspace,
    earlier: Sequence[Manifest],
    progress: Progress,
    force: bool = False,
) -> dict[str, list[Manifest]]:
    """Commit the side files of every source of texts, and list them in `side_files.parquet`.

    Args:
        earlier: indexes at this root: what they hold of the same shards and texts is not read again.
    Returns: source -> side parts, one for each part of the shards.
    Raises: IntegrityError: for texts of pairs that are no samples.
    """
    shard = read_manifest(shard_uri)
    rows = read_parts(caption_uri)
    builder = _Builder(shard_uri, caption_uri, root, workspace.scratch, force=force)
    made: dict[str, list[Manifest]] = {}
    sources = list(dict.fromkeys(row["source"] for row in rows))
    for number, source in enumerate(sources):
        progress(STAGE, done=number, total=len(sources), note=f"texts of source {source}")
        of_source = [row for row in rows if row["source"] == source]
        known = _known(earlier, source, of_source, shard.parts, caption_uri)
        made[source] = [_verified(part_uri(workspace.uri, key)) for key in known.side_parts]
        made[source] += builder.build(source, known.unread, first=len(known.side_parts))
    listed = [
        {
            "source": source,
            "shard_part": part.inputs[SHARD_PART],
            "part": part.key,
            "texts": part.ledger.out,
        }
        for source, parts in made.items()
        for part in parts
    ]
    table = pa.Table.from_pylist(listed, schema=SIDE_FILES_SCHEMA)
    pq.write_table(table, workspace.output / SIDE_FILES)
    return made


def _known(
    earlier: Sequence[Manifest],
    source: str,
    of_source: Sequence[Mapping[str, str]],
    shard_parts: Sequence[str],
    caption_uri: str,
) -> _Known:
    """Find the index that has most of the shards with the same texts.

    It may be taken over if its shards are the first of these, all its texts of the source are still there, and further
    texts are of partitions that it did not know: then they belong to the shards after its own.
    """
    best = _Known([], [row["part"] for row in of_source])
    now = {row["part"] for row in of_source}
    for index in earlier:
        side_parts: list[str] = index.summary["texts"].get(source, [])
        caption_then = join(parent_of(caption_uri), index.summary["captions"])
        is_first = index.summary["parts"] == list(shard_parts[: len(side_parts)])
        if len(side_parts) <= len(best.side_parts) or not (is_first and is_committed(caption_then)):
            continue
        then = read_parts(caption_then)
        read = {row["part"] for row in then if row["source"] == source}
        partitions = {row["partition"] for row in then}
        unread = [row for row in of_source if row["part"] not in read]
        if read <= now and not any(row["partition"] in partitions for row in unread):
            best = _Known(side_parts, [row["part"] for row in unread])
    return best


def _verified(part_uri: str) -> Manifest:
    part = read_manifest(part_uri)
    verify_sizes(part_uri, part)
    return part


class _Builder:
    """Puts the texts of sources into the order of the shards, in DuckDB, which spills to disk."""

    def __init__(
        self, shard_uri: str, caption_uri: str, root: str, scratch: Path, *, force: bool
    ) -> None:
        self._shard_uri, self._caption_uri, self._root = shard_uri, caption_uri, root
        self._shard, self._scratch, self._force = read_manifest(shard_uri), scratch, force

    def build(self, source: str, caption_parts: Sequence[str], *, first: int) -> list[Manifest]:
        """Commit the side files of one source for the parts of the shards from the first-th on."""
        if first == len(self._shard.parts) and not caption_parts:
            return []
        with connect(self._scratch) as connection:
            shards = place_pairs(connection, self._shard_uri, self._shard.parts[first:])
            folders = [part_uri(self._caption_uri, part) for part in caption_parts]
            paths = [committed_file(folder, TEXTS) for folder in folders]
            connection.execute(_NO_TEXTS)
            for _, files in few_at_once(paths):
                connection.execute(f"INSERT INTO texts {_TEXTS}", {"files": files})
            self._require_samples(connection, source)
            texts = _Stream(connection)
            return [
                self._commit(source, part, [s for s in shards if s.part == part], texts)
                for part in self._shard.parts[first:]
            ]

    def _require_samples(self, connection: duckdb.DuckDBPyConnection, source: str) -> None:
        """Refuse texts of pairs that were not packed, except for those whose image could not be read there."""
        without = int(connection.execute(_WITHOUT_SAMPLE).fetchall()[0][0])
        undecodable = self._shard.ledger.dropped.get("undecodable", 0)
        if without > undecodable:
            raise IntegrityError(
                f"the texts of source {source!r} are of {without} pairs that no shard of {self._shard_uri} has, where "
                f"{undecodable} pairs had an unreadable image; captions and shards are of other pairs: run "
                "`--from curate`"
            )

    def _commit(
        self, source: str, part: str, shards: Iterable[Shard], texts: "_Stream"
    ) -> Manifest:
        folder = self._scratch / "side" / part
        folder.mkdir(parents=True)
        content, samples, found = hashlib.sha256(), 0, 0
        for shard in shards:
            rows = texts.take(shard.samples)
            content.update(orjson.dumps([name_of(shard.name), rows]))
            write_texts(folder / texts_name(shard.name), rows, source=source, shard=shard.name)
            samples += shard.samples
            found += sum(map(len, rows))
        members = committed_file(part_uri(self._shard_uri, part), MEMBERS)
        pq.write_table(
            pq.read_table(members, columns=["uid", "shard"]), folder / SAMPLES, compression="zstd"
        )
        made_of = {"version": TEXTS_VERSION, "source": source, "texts": content.hexdigest()}
        identity = StageIdentity(
            stage=STAGE,
            stage_version=TEXTS_VERSION,
            key=digest({**made_of, SHARD_PART: part}),
            section={"source": source},
            inputs={SHARD_PART: part},
            root=self._root,
            part=True,
        )

        def move(workspace: Workspace) -> Outcome:
            for path in folder.iterdir():
                path.rename(workspace.output / path.name)
            return Outcome(make_ledger(found, found, {}), {"samples": samples})

        manifest, _ = commit_stage(identity, move, force=self._force)
        shutil.rmtree(folder)
        return manifest


class _Stream:
    """The texts of packed pairs in the order of their places."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._rows = self._read(connection)
        self._next = next(self._rows, None)
        self._place = 0

    def take(self, count: int) -> list[list[str]]:
        """Return the texts of the next places, an empty list for a pair without any."""
        first = self._place
        taken: list[list[str]] = [[] for _ in range(count)]
        self._place += count
        while self._next is not None and self._next[0] < self._place:
            taken[self._next[0] - first] = self._next[1]
            self._next = next(self._rows, None)
        return taken

    @staticmethod
    def _read(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, list[str]]]:
        for batch in connection.sql(_IN_ORDER).to_arrow_reader(_ROWS_AT_ONCE):
            yield from zip(*(column.to_pylist() for column in batch), strict=True)
