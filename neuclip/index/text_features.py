"""Side files of features: those of the texts of all samples, row for row beside the side files of the texts.

Legend: N texts of a shard's samples, F width of a feature.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import ipc

from neuclip.captions.text_features import (
    ENCODER,
    FEATURES,
    ROWS,
    Rows,
    feature_parts,
    open_features,
)
from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.progress import Progress
from neuclip.index.places import UID, Shard, place_pairs
from neuclip.index.side_files import (
    SAMPLES,
    SHARD_PART,
    SIDE_FEATURES,
    SIDE_FEATURES_SCHEMA,
    TEXT_PART,
    features_name,
    texts_name,
)
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import (
    Manifest,
    is_committed,
    part_uri,
    read_manifest,
    verify_sizes,
)
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.tables import connect

STAGE = "index"
SIDE_FEATURES_VERSION = 1
"""Raised when other side files come of the same features."""
_ROWS_AT_ONCE = 65_536

_ADD_ROWS = f"""
    INSERT INTO rows SELECT {UID}, k, $part, file_row_number
    FROM read_parquet($file, file_row_number = true) WHERE k IS NOT NULL"""  # noqa: S608
_NO_ROWS = "CREATE TABLE rows (uid_hi UBIGINT, uid_lo UBIGINT, k INTEGER, part INTEGER, nr BIGINT)"
_IN_ORDER = """
    SELECT place, part, nr FROM places JOIN rows USING (uid_hi, uid_lo) ORDER BY place, k"""

_Integers = npt.NDArray[np.int64]


def build_feature_files(
    shard_uri: str,
    text_encoder_uri: str,
    texts: Mapping[str, Sequence[Manifest]],
    *,
    root: str,
    workspace: Workspace,
    progress: Progress,
    force: bool = False,
) -> dict[str, Any]:
    """Commit the side files of the features of every source that was encoded, and list them.

    A side part is known by the texts that it stands beside and by the encoder, so one that is there is not made again.

    Args:
        texts: source -> the side parts with its texts, one for each part of the shards.
    Returns: for the summary of the index: `text_encoder`, what encoded the texts.
    Raises: IntegrityError: for a text without a feature, a part that is short, or one of another encoder.
    """
    record: dict[str, Any] = read_manifest(text_encoder_uri).summary["encoder"]
    listed: list[dict[str, Any]] = []
    every = feature_parts(text_encoder_uri)
    sources = list(dict.fromkeys(row["source"] for row in every))
    for number, source in enumerate(sources):
        progress(STAGE, done=number, total=len(sources), note=f"features of source {source}")
        folders = [row["uri"] for row in every if row["source"] == source]
        _require_encoder(folders, record["fingerprint"])
        builder = _Builder(source, folders, record, shard_uri, root, workspace, force=force)
        for text_part, part in builder.build(texts.get(source, [])):
            listed.append(
                {
                    "source": source,
                    "shard_part": text_part.inputs[SHARD_PART],
                    "part": part.key,
                    "texts": part.ledger.out,
                }
            )
    table = pa.Table.from_pylist(listed, schema=SIDE_FEATURES_SCHEMA)
    pq.write_table(table, workspace.output / SIDE_FEATURES)
    return {"text_encoder": record}


def _require_encoder(folders: Sequence[str], fingerprint: str) -> None:
    for folder in folders:
        found = read_manifest(folder).inputs[ENCODER]
        if found != fingerprint:
            raise IntegrityError(
                f"{folder} holds features of the encoder {found[:12]}, expected {fingerprint[:12]}; run "
                "`--only text_encoder --force`"
            )


class _Builder:
    """Puts the features of one source into the order of the shards."""

    def __init__(
        self,
        source: str,
        folders: Sequence[str],
        record: Mapping[str, Any],
        shard_uri: str,
        root: str,
        workspace: Workspace,
        *,
        force: bool,
    ) -> None:
        self._source, self._folders, self._record = source, folders, record
        self._shard_uri, self._root, self._force = shard_uri, root, force
        self._workspace = workspace

    def build(self, text_parts: Sequence[Manifest]) -> list[tuple[Manifest, Manifest]]:
        """Commit the side part of every text part unless it is there; return both."""
        identities = [self._identity(part) for part in text_parts]
        missing = [
            part
            for part, identity in zip(text_parts, identities, strict=True)
            if self._force or not is_committed(identity.uri)
        ]
        if missing:
            self._make(missing)
        made = [read_manifest(identity.uri) for identity in identities]
        for identity, part in zip(identities, made, strict=True):
            verify_sizes(identity.uri, part)
        return list(zip(text_parts, made, strict=True))

    def _make(self, text_parts: Sequence[Manifest]) -> None:
        opened = [
            open_features(
                committed_file(folder, FEATURES),
                rows=read_manifest(folder).ledger.out,
                width=self._record["width"],
            )
            for folder in self._folders
        ]
        with connect(self._workspace.scratch) as connection:
            parts = [part.inputs[SHARD_PART] for part in text_parts]
            shards = place_pairs(connection, self._shard_uri, parts)
            connection.execute(_NO_ROWS)
            for number, folder in enumerate(self._folders):
                rows = str(committed_file(folder, ROWS))
                connection.execute(_ADD_ROWS, {"part": number, "file": rows})
            found = _Ordered(connection)
            for part in text_parts:
                of_part = [shard for shard in shards if shard.part == part.inputs[SHARD_PART]]
                self._commit(part, of_part, found, opened)

    def _commit(
        self,
        text_part: Manifest,
        shards: Sequence[Shard],
        found: "_Ordered",
        opened: Sequence[Rows],
    ) -> None:
        """Write the features of one side part; each text of it has exactly one."""
        text_uri = part_uri(self._workspace.uri, text_part.key)
        taken = [_Taken(shard, found.place, *found.take(shard.samples)) for shard in shards]
        commit_stage(
            self._identity(text_part),
            partial(self._write, text_uri, taken, opened),
            force=self._force,
        )

    def _write(
        self,
        text_uri: str,
        taken: Sequence["_Taken"],
        opened: Sequence[Rows],
        workspace: Workspace,
    ) -> Outcome:
        counts: list[int] = []
        total = 0
        for shard, first, places, parts, rows in taken:
            of_sample = _counts(committed_file(text_uri, texts_name(shard.name)))
            here = np.bincount(places - first, minlength=shard.samples)
            self._require_all(of_sample, here, shard)
            features = np.empty((len(rows), self._record["width"]), np.float16)
            for number in np.unique(parts):
                is_of = parts == number
                features[is_of] = opened[number][rows[is_of]]
            np.save(workspace.output / features_name(shard.name), features, allow_pickle=False)
            counts += of_sample.tolist()
            total += len(rows)
        samples = pq.read_table(committed_file(text_uri, SAMPLES)).append_column(
            "texts", pa.array(counts, pa.int32())
        )
        pq.write_table(samples, workspace.output / SAMPLES, compression="zstd")
        return Outcome(make_ledger(total, total, {}), {"samples": len(counts)})

    def _require_all(self, texts: _Integers, features: _Integers, shard: Shard) -> None:
        wrong = np.flatnonzero(texts != features)
        if len(wrong):
            row = int(wrong[0])
            raise IntegrityError(
                f"{len(wrong)} samples of {shard.name} have another number of texts of source {self._source!r} than of "
                f"features; the first is sample {row} of the shard, with {texts[row]} texts and {features[row]} "
                "features; run `--from text_encoder --force`"
            )

    def _identity(self, text_part: Manifest) -> StageIdentity:
        fingerprint = self._record["fingerprint"]
        made_of = {"version": SIDE_FEATURES_VERSION, TEXT_PART: text_part.key, ENCODER: fingerprint}
        return StageIdentity(
            stage=STAGE,
            stage_version=SIDE_FEATURES_VERSION,
            key=digest(made_of),
            section={"source": self._source},
            inputs={
                SHARD_PART: text_part.inputs[SHARD_PART],
                TEXT_PART: text_part.key,
                ENCODER: fingerprint,
            },
            root=self._root,
            part=True,
        )


class _Taken(NamedTuple):
    """A shard, the number of its first place, and place, part and row of the feature of each of its texts."""

    shard: Shard
    first: int
    places: _Integers
    parts: _Integers
    rows: _Integers


class _Ordered:
    """Which row of which part is the feature of the next text, in the order of the places."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.place = 0
        self._batches = self._read(connection)
        self._left: list[_Integers] = next(self._batches, [np.empty(0, np.int64)] * 3)

    def take(self, count: int) -> list[_Integers]:
        """Return place, part and row of the texts of the next places."""
        self.place += count
        taken: list[list[_Integers]] = [[], [], []]
        while True:
            end = int(np.searchsorted(self._left[0], self.place))
            for column, left in zip(taken, self._left, strict=True):
                column.append(left[:end])
            more = end == len(self._left[0])
            self._left = [column[end:] for column in self._left]
            if not more or (batch := next(self._batches, None)) is None:
                return [np.concatenate(column) for column in taken]
            self._left = batch

    @staticmethod
    def _read(connection: duckdb.DuckDBPyConnection) -> Iterator[list[_Integers]]:
        for batch in connection.sql(_IN_ORDER).to_arrow_reader(_ROWS_AT_ONCE):
            yield [column.to_numpy(zero_copy_only=False).astype(np.int64) for column in batch]


def _counts(path: Path) -> _Integers:
    """Return how many texts each sample of a side file of texts has."""
    with ipc.open_file(str(path)) as file:
        column = file.read_all()["texts"]
    lengths = pc.list_value_length(column)  # pyright: ignore[reportAttributeAccessIssue]
    return np.asarray(lengths).astype(np.int64)
