"""Where pairs went: every committed folder below acquire that was made with them, and what stays in it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from neuclip.curate.pool import SCORES
from neuclip.stage_list import STAGES
from neuclip.stages.manifest import (
    PARTS,
    committed_manifests,
    is_committed,
    read_manifest,
)
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

_OF_SCORES = "numbers and features computed from the pairs"


@dataclass(frozen=True)
class Place:
    """A committed folder that was made with pairs of a takedown."""

    stage: str
    key: str
    uri: str
    pairs: int
    stays: str
    """What of the pairs is still there, and goes only with the folder."""


def find_places(root: str, uids: Collection[str]) -> list[Place]:
    """Follow pairs through the manifests of a root, in the order of the journey."""
    wanted = set(uids)
    if not wanted:
        return []
    places = list(_scores(root, wanted))
    pairs_of: dict[tuple[str, str], int] = {}
    for stage in STAGES:
        if stage.trace is None:
            continue
        for manifest in committed_manifests(join(root, stage.name))[::-1]:  # oldest first
            uri = join(root, stage.name, manifest.key)
            if stage.trace.table is not None:
                count = _count(join(uri, stage.trace.table), wanted)
            else:
                above = stage.trace.through or ""
                count = pairs_of.get((above, manifest.inputs.get(above, "")), 0)
            pairs_of[stage.name, manifest.key] = count
            if count:
                places.append(Place(stage.name, manifest.key, uri, count, stage.trace.stays))
    return places


def unfinished_folders(root: str) -> list[str]:
    """Return folders of runs that go on and never ended: no manifest says what they were made with."""
    return [
        join(root, stage.name, key)
        for stage in STAGES
        if stage.resumes
        for key in list_folders(join(root, stage.name))
        if key != PARTS and not is_committed(join(root, stage.name, key))
    ]


def _scores(root: str, wanted: set[str]) -> Iterator[Place]:
    """Yield the score folders with a value of one of the pairs; those of evaluation sets hold other samples."""
    for key in list_folders(join(root, "score", PARTS)):
        uri = join(root, "score", PARTS, key)
        if not is_committed(uri) or "partition" not in read_manifest(uri).inputs:
            continue
        table = pq.read_table(local_copy(join(uri, SCORES)))
        values = table.drop_columns(["uid"]).to_pylist()
        count = sum(
            uid in wanted and (not row or any(value is not None for value in row.values()))
            for uid, row in zip(table["uid"].to_pylist(), values, strict=True)
        )
        if count:
            yield Place("score", key, uri, count, _OF_SCORES)


def _count(table_uri: str, wanted: set[str]) -> int:
    with pq.ParquetFile(local_copy(table_uri)) as file:
        return sum(
            uid in wanted
            for batch in file.iter_batches(columns=["uid"])
            for uid in batch["uid"].to_pylist()
        )
