"""Where pairs went: every committed folder below acquire that was made with them, and what stays in it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import pyarrow.parquet as pq

from neuclip.stage_list import STAGES
from neuclip.stages.committed import holds_file
from neuclip.stages.manifest import (
    PARTS,
    committed_manifests,
    is_committed,
)
from neuclip.stages.stage import Trace
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

_Folder = tuple[str, str]
"""Stage and key."""


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
    places: list[Place] = []
    pairs_of: dict[_Folder, int] = {}
    following: list[tuple[_Folder, Trace]] = []
    made_of: dict[_Folder, list[_Folder]] = {}
    for stage in STAGES:
        trace, stage_uri = stage.trace, join(root, stage.name)
        if trace is None:
            continue
        if trace.part_table is not None:
            places += _in_parts(stage.name, stage_uri, trace.stays, trace.part_table, wanted)
            continue
        for manifest in committed_manifests(stage_uri)[::-1]:  # oldest first
            folder = stage.name, manifest.key
            following.append((folder, trace))
            if trace.table is not None:
                pairs_of[folder] = _count(join(stage_uri, manifest.key, trace.table), wanted)
            else:
                above = trace.through or ""
                made_of[folder] = [(above, manifest.inputs.get(above, ""))]
                made_of[folder] += trace.began_with(manifest) if trace.began_with else []
    _follow(pairs_of, made_of)
    return places + [
        Place(stage, key, join(root, stage, key), count, trace.stays)
        for (stage, key), trace in following
        if (count := pairs_of[stage, key])
    ]


def _follow(pairs_of: dict[_Folder, int], made_of: Mapping[_Folder, list[_Folder]]) -> None:
    """Count for a folder made of others the most pairs that one of those has; models begin with published ones."""
    pairs_of.update(dict.fromkeys(made_of, 0))
    is_new = True
    while is_new:
        is_new = False
        for folder, others in made_of.items():
            count = max(pairs_of.get(other, 0) for other in others)
            is_new |= count != pairs_of[folder]
            pairs_of[folder] = count


def unfinished_folders(root: str) -> list[str]:
    """Return folders of runs that go on and never ended: no manifest says what they were made with."""
    return [
        join(root, stage.name, key)
        for stage in STAGES
        if stage.resumes
        for key in list_folders(join(root, stage.name))
        if key != PARTS and not is_committed(join(root, stage.name, key))
    ]


def _in_parts(
    stage: str, stage_uri: str, stays: str, table: str, wanted: set[str]
) -> Iterator[Place]:
    """Yield the parts with a value of one of the pairs, whether or not a folder of the stage lists them."""
    for key in list_folders(join(stage_uri, PARTS)):
        uri = join(stage_uri, PARTS, key)
        if not is_committed(uri) or not holds_file(uri, table):
            continue
        rows = pq.read_table(local_copy(join(uri, table)))
        values = rows.drop_columns(["uid"]).to_pylist()
        count = sum(
            uid in wanted and (not row or any(value is not None for value in row.values()))
            for uid, row in zip(rows["uid"].to_pylist(), values, strict=True)
        )
        if count:
            yield Place(stage, key, uri, count, stays)


def _count(table_uri: str, wanted: set[str]) -> int:
    with pq.ParquetFile(local_copy(table_uri)) as file:
        return sum(
            uid in wanted
            for batch in file.iter_batches(columns=["uid"])
            for uid in batch["uid"].to_pylist()
        )
