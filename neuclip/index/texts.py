"""Side files of texts: the captions of all samples in the order of their shards, from the caption stage's parts."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.captions.files import TEXTS, text_parts
from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.progress import Progress
from neuclip.index.side_files import (
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
from neuclip.stages.manifest import Manifest, part_uri, read_manifest, verify_sizes
from neuclip.stages.open_folder import TAKEDOWNS_NOTE
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.tables import connect, fill_from_files
from neuclip.storage.uris import name_of

STAGE = "index"
TEXTS_VERSION = 1
"""Raised when other side files come of the same texts."""
_ROWS_AT_ONCE = 4096

_UID = "('0x' || uid[1:16])::UBIGINT AS uid_hi, ('0x' || uid[17:32])::UBIGINT AS uid_lo"
_PLACES = f"""
    INSERT INTO places SELECT {_UID}, $first + file_row_number
    FROM read_parquet($members, file_row_number = true)"""  # noqa: S608
_SHARDS = """
    SELECT shard, count(*) FROM read_parquet($members, file_row_number = true)
    GROUP BY shard ORDER BY min(file_row_number)"""
_TEXTS = f"""
    SELECT {_UID}, list(text ORDER BY k) AS texts
    FROM read_parquet($files) WHERE status = 'ok' GROUP BY uid"""  # noqa: S608
_WITHOUT_SAMPLE = "SELECT count(*) FROM texts ANTI JOIN places USING (uid_hi, uid_lo)"
_IN_ORDER = """
    SELECT place, texts FROM places JOIN texts USING (uid_hi, uid_lo) ORDER BY place"""


@dataclass(frozen=True)
class _Shard:
    """A tar: the part it is of, its name, and how many samples it has, held-out ones too."""

    part: str
    name: str
    samples: int


def build_text_files(
    shard_uri: str,
    caption_uri: str,
    *,
    root: str,
    workspace: Workspace,
    earlier: Mapping[str, list[str]],
    progress: Progress,
    force: bool = False,
) -> dict[str, dict[str, Any]]:
    """Commit the side files of every source of texts, and list them in `side_files.parquet`.

    Args:
        earlier: what the files of indexes before this one were made of -> their parts: a source whose texts and shards
            are the same is not read again.
    Returns: source -> what its files were made of, and their parts; for the summary of the index.
    Raises: IntegrityError: for texts of pairs that are no samples.
    """
    shard = read_manifest(shard_uri)
    done: dict[str, dict[str, Any]] = {}
    made: dict[str, list[Manifest]] = {}
    sources = text_parts(caption_uri)
    builder = _Builder(shard_uri, root, workspace.scratch, force=force)
    for number, (source, folders) in enumerate(sources.items()):
        progress(STAGE, done=number, total=len(sources), note=f"texts of source {source}")
        made_of = digest(
            {
                "version": TEXTS_VERSION,
                "shards": shard.parts,
                "texts": [[source, name_of(uri), _taken_down(uri)] for uri in folders],
            }
        )
        if made_of in earlier and not force:
            made[source] = [_verified(part_uri(workspace.uri, key)) for key in earlier[made_of]]
        else:
            made[source] = builder.build(source, folders)
        done[source] = {"made_of": made_of, "parts": [part.key for part in made[source]]}
    rows = [
        {
            "source": source,
            "shard_part": part.inputs[SHARD_PART],
            "part": part.key,
            "texts": part.ledger.out,
        }
        for source, parts in made.items()
        for part in parts
    ]
    table = pa.Table.from_pylist(rows, schema=SIDE_FILES_SCHEMA)
    pq.write_table(table, workspace.output / SIDE_FILES)
    return done


def _taken_down(part_uri: str) -> list[int]:
    """Return the takedowns that changed a part after its commit: its key does not tell of them."""
    return read_manifest(part_uri).summary.get(TAKEDOWNS_NOTE, [])


def _verified(part_uri: str) -> Manifest:
    part = read_manifest(part_uri)
    verify_sizes(part_uri, part)
    return part


class _Builder:
    """Puts the texts of sources into the order of the shards, in DuckDB, which spills to disk."""

    def __init__(self, shard_uri: str, root: str, scratch: Path, *, force: bool) -> None:
        self._root, self._scratch, self._force = root, scratch, force
        self._shard, self._shard_uri = read_manifest(shard_uri), shard_uri
        self._shards: list[_Shard] = []

    def build(self, source: str, folders: Sequence[str]) -> list[Manifest]:
        """Commit the side files of one source, a part for each part of the shards."""
        with connect(self._scratch) as connection:
            self._place(connection)
            paths = [committed_file(uri, TEXTS) for uri in folders]
            fill_from_files(connection, "texts", _TEXTS, paths)
            self._require_samples(connection, source)
            texts = _Stream(connection)
            return [
                self._commit(source, part, [s for s in self._shards if s.part == part], texts)
                for part in self._shard.parts
            ]

    def _place(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Fill table `places` with every packed pair by its number, counted through all shards."""
        connection.execute("CREATE TABLE places (uid_hi UBIGINT, uid_lo UBIGINT, place BIGINT)")
        self._shards, first = [], 0
        for part in self._shard.parts:
            members = str(committed_file(part_uri(self._shard_uri, part), MEMBERS))
            connection.execute(_PLACES, {"members": members, "first": first})
            for name, count in connection.execute(_SHARDS, {"members": members}).fetchall():
                self._shards.append(_Shard(part, str(name), int(count)))
                first += int(count)

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
        self, source: str, part: str, shards: Iterable[_Shard], texts: "_Stream"
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
