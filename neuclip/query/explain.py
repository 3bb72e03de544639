"""The whole story of one pair, in the order of the journey."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import duckdb

from neuclip.acquire.listing import PARTITIONS_FILE
from neuclip.acquire.raw import ROWS, partition_folders
from neuclip.acquire.reasons import REPEATS
from neuclip.acquire.refusals import TAKEDOWNS, TAKEN_DOWN
from neuclip.captions.run import CAPTIONS
from neuclip.curate.pool import SCORES
from neuclip.curate.run import CONTAMINATION, GROUPS, VERDICTS
from neuclip.egress.refusal import TRANSIENT_REASONS
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.ids import UID_LENGTH, is_uid
from neuclip.index.database import INDEX
from neuclip.index.sample_index import SIGNALS
from neuclip.query.values import plain
from neuclip.query.views import Tables, has_signals
from neuclip.recipe import Recipe
from neuclip.shards.members import MEMBERS
from neuclip.stages.committed import committed_file, holds_file
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.storage.files import list_folders
from neuclip.storage.tables import few_at_once
from neuclip.storage.uris import join, name_of, parent_of

_MOST_OF_A_GROUP = 20
_PREFIX = 6
_NEAR = 3
_OF_FILES = "FROM read_parquet($files, filename = true, file_row_number = true)"
_ALIKE = (
    f"SELECT DISTINCT uid {_OF_FILES} WHERE starts_with(uid, $start) ORDER BY uid LIMIT {_NEAR}"
)
_NO_FACTS = ("uid", "filename", "file_row_number")
_OF_THE_INDEX = {
    "samples": "SELECT sample_id FROM samples WHERE sample_id = $1",
    "clusters": "SELECT model, cluster FROM clusters WHERE sample_id = $1",
    "features": "SELECT model, len(image_feature) AS width FROM features WHERE sample_id = $1",
}

Facts = dict[str, Any]


@dataclass
class Story:
    """What every stage says of a pair; ends where the pair or the journey does."""

    uid: str
    stages: dict[str, Facts] = field(default_factory=dict[str, Facts])
    """Stage -> facts, in the order of the journey; values are JSON."""
    end: str = ""
    """Why it ends where it does; empty if all stages up to training have been told."""


def explain(recipe: Recipe, uid: str) -> Story:
    """Tell what every committed stage knows of a pair.

    Raises: ConfigError: if the text is no uid or acquire has not been done. DataError: if no pair has the uid.
    """
    uid = uid.strip().lower()
    tables = Tables(recipe)
    if not tables.is_done["acquire"]:
        raise ConfigError(
            "there is no pair to explain: acquire has not been done with this recipe; run `--only acquire`"
        )
    story = Story(uid)
    with duckdb.connect() as connection:
        teller = _Teller(recipe, tables, connection, uid)
        chapters: dict[str, Callable[[], tuple[Facts, str]]] = {
            "acquire": teller.acquire,
            "curate": teller.curate,
            "caption": teller.caption,
            "shard": teller.shard,
            "index": teller.index,
            "train": teller.train,
        }
        for stage, tell in chapters.items():
            if not tables.is_done[stage]:
                story.end = f"{stage} has not been done with this recipe: run `--only {stage}`"
                break
            story.stages[stage], story.end = tell()
            if story.end:
                break
    return story


class _Teller:
    """Looks a pair up stage by stage; each method returns facts, and why the story ends there if it does."""

    def __init__(
        self, recipe: Recipe, tables: Tables, connection: duckdb.DuckDBPyConnection, uid: str
    ) -> None:
        self._recipe, self._tables, self._connection, self._uid = recipe, tables, connection, uid
        self._partition = ""
        self._sample_id: int | None = None

    def acquire(self) -> tuple[Facts, str]:
        folders = partition_folders(self._tables.uris["acquire"])
        paths = {str(committed_file(folder, ROWS)): name_of(folder) for folder in folders}
        found = self._in_files(f"SELECT * {_OF_FILES} WHERE uid = $uid", list(paths))
        if not found:
            raise self._unknown(list(paths))
        order = {path: number for number, path in enumerate(paths)}
        found.sort(key=lambda row: (order[row["filename"]], row["file_row_number"]))
        tries = [row for row in found if row["reason"] not in REPEATS] or found
        first, row = tries[0], tries[-1]
        self._partition = paths[row["filename"]]
        facts: Facts = {
            "partition": self._partition,
            **self._origin(paths[first["filename"]], first["file_row_number"]),
            **{name: value for name, value in row.items() if name not in _NO_FACTS},
        }
        facts["captions"] = dict(row["captions"])
        if len(tries) > 1:
            facts["tries"] = [
                {
                    "round": number,
                    "partition": paths[tried["filename"]],
                    "outcome": tried["reason"] or tried["status"],
                    "detail": tried["detail"],
                }
                for number, tried in enumerate(tries)
            ]
        if len(found) > len(tries):
            facts["rows_with_this_uid"] = len(found) - len(tries) + 1
        return facts, "" if row["status"] == "success" else _why_not_there(row)

    def curate(self) -> tuple[Facts, str]:
        rules = self._tables.rules()
        verdict = self._one(
            "SELECT * FROM read_parquet($path) WHERE uid = $uid",
            self._tables.file("curate", VERDICTS),
        )
        if verdict is None:
            return {}, "curate has no verdict on it: run `--only curate --force`"
        failed = int(verdict["failed"])
        facts: Facts = {
            "scores": self._scores(),
            "kept": verdict["kept"],
            "reason": verdict["reason"],
            "failed": [rule for bit, rule in enumerate(rules) if failed >> bit & 1],
            "groups": self._groups(rules),
            "evaluation_samples": self._evaluation_samples(),
        }
        return facts, "" if verdict["kept"] else f"curate dropped it: {verdict['reason']}"

    def caption(self) -> tuple[Facts, str]:
        row = self._one(
            "SELECT captions FROM read_parquet($path) WHERE uid = $uid",
            self._tables.file("caption", CAPTIONS),
        )
        if row is None:
            return {}, "it has no caption in caption.sources"
        return {"captions": dict(row["captions"])}, ""

    def shard(self) -> tuple[Facts, str]:
        row = self._one(
            "SELECT * FROM read_parquet($path) WHERE uid = $uid",
            self._tables.file("shard", MEMBERS),
        )
        if row is None:
            return {}, "its image has no readable header, so it was not packed (undecodable)"
        self._sample_id = row["sample_id"]
        facts = {**row, "part": row["shard"].split("/")[1]}
        facts["uri"] = join(parent_of(self._tables.uris["shard"]), facts.pop("shard"))
        del facts["uid"]
        held_out = "it is held out for choosing a checkpoint, and is never trained on"
        return facts, held_out if self._sample_id is None else ""

    def index(self) -> tuple[Facts, str]:
        path = self._tables.file("index", INDEX)
        with duckdb.connect(str(path), read_only=True) as index:
            known = {
                table: _records(index, query, [self._sample_id])
                for table, query in _OF_THE_INDEX.items()
            }
        if not known["samples"]:
            return {}, f"the index has no sample {self._sample_id}: run `--only index --force`"
        return {
            "sample_id": self._sample_id,
            "clusters": known["clusters"],
            "features": known["features"],
        }, ""

    def train(self) -> tuple[Facts, str]:
        if not has_signals(self._tables):
            return {"signals": None}, "training recorded no signals: train with train.signals: true"
        row = self._one(
            "SELECT * FROM read_parquet($path) WHERE sample_id = $sample_id",
            self._tables.file("train", SIGNALS),
            sample_id=self._sample_id,
        )
        return {"signals": row}, ""

    def _origin(self, partition: str, number: int) -> Facts:
        """Say which row of which input file the pair was."""
        row = self._one(
            "SELECT part, file, first_row FROM read_parquet($path) WHERE part = $part",
            self._tables.file("acquire", PARTITIONS_FILE),
            part=partition,
        )
        return {} if row is None else {"file": row["file"], "row": row["first_row"] + number}

    def _scores(self) -> dict[str, list[Facts]]:
        """Return what each score at this root says of the pair, by name; a row for each model it was made by."""
        found: dict[str, list[Facts]] = {}
        stage_uri = join(self._recipe.root, "score", PARTS)
        for key in list_folders(stage_uri):
            uri = join(stage_uri, key)
            manifest = read_manifest(uri) if is_committed(uri) else None
            if manifest is None or manifest.inputs.get("partition") != self._partition:
                continue
            row = self._one(
                "SELECT * FROM read_parquet($path) WHERE uid = $uid", committed_file(uri, SCORES)
            )
            values = {name: value for name, value in (row or {}).items() if name != "uid"}
            made_by = {"model": manifest.inputs.get("model"), **values}
            found.setdefault(str(manifest.section.get("name")), []).append(made_by)
        return found

    def _groups(self, rules: list[str]) -> list[Facts]:
        """Return, for each rule over groups, what the pair was dropped for, or who was dropped for it."""
        groups: list[Facts] = []
        for rule in rules:
            name = f"{GROUPS}/{rule}.parquet"
            if not holds_file(self._tables.uris["curate"], name):
                continue
            rows = self._rows(
                "SELECT uid, keeper_uid, distance FROM read_parquet($path) "
                "WHERE uid = $uid OR keeper_uid = $uid ORDER BY uid LIMIT $most",
                most=_MOST_OF_A_GROUP,
                path=str(self._tables.file("curate", name)),
            )
            groups += [{"rule": rule, **row} for row in rows]
        return groups

    def _evaluation_samples(self) -> list[Facts]:
        """Return the samples of evaluation sets that the pair matches."""
        if not holds_file(self._tables.uris["curate"], CONTAMINATION):
            return []
        return self._rows(
            'SELECT "set", sample, "by", distance FROM read_parquet($path) WHERE uid = $uid',
            path=str(self._tables.file("curate", CONTAMINATION)),
        )

    def _in_files(self, query: str, paths: list[str], **parameters: str) -> list[Facts]:
        """Return what a query finds in outcome tables, a few files after the other."""
        return [
            row
            for _, files in few_at_once(paths)
            for row in self._rows(query, files=files, **parameters)
        ]

    def _unknown(self, paths: list[str]) -> DataError | ConfigError:
        """Return the error for a uid that no row has, with the nearest thing to do."""
        name = "`neuclip query RECIPE \"SELECT uid, url FROM rows WHERE url LIKE '%...%'\"` finds a pair by its URL"
        alike = self._in_files(_ALIKE, paths, start=self._uid[:_PREFIX])
        near = sorted({row["uid"] for row in alike})[:_NEAR]
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        if not is_uid(self._uid):
            return ConfigError(
                f"{self._uid!r} is no uid, which has {UID_LENGTH} hex digits.{meant} {name}"
            )
        return DataError(
            f"no row of {self._recipe.acquire.source} has uid {self._uid}.{meant} {name}"
        )

    def _one(self, query: str, path: Any, **parameters: Any) -> Facts | None:  # noqa: ANN401  # what DuckDB takes
        rows = self._rows(query, path=str(path), **parameters)
        return rows[0] if rows else None

    def _rows(self, query: str, **parameters: Any) -> list[Facts]:  # noqa: ANN401  # what DuckDB takes
        if "$uid" in query:
            parameters["uid"] = self._uid
        return _records(self._connection, query, parameters)


def _why_not_there(row: Facts) -> str:
    """Say why a pair ends at acquire, and whether that may change."""
    reason = row["reason"]
    if reason == TAKEN_DOWN:
        return f"it was taken down; the records in `{TAKEDOWNS}` at the root say when"
    said = f"it was not fetched: {reason} ({row['detail'] or 'no further word'})"
    return f"{said}; `neuclip repair` tries again" if reason in TRANSIENT_REASONS else said


def _records(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any] | list[Any]
) -> list[Facts]:
    cursor = connection.execute(query, parameters)
    names = [str(column[0]) for column in cursor.description or []]
    return [dict(zip(names, map(plain, row), strict=True)) for row in cursor.fetchall()]
