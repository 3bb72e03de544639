"""Where pairs went: every committed folder below acquire that was made with them, and what stays in it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import pyarrow.parquet as pq

from neuclip.captions.run import CAPTIONS
from neuclip.curate.pool import SCORES
from neuclip.curate.run import VERDICTS
from neuclip.shards.members import MEMBERS
from neuclip.stages.manifest import (
    PARTS,
    Manifest,
    committed_manifests,
    is_committed,
    read_manifest,
)
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

_TABLE_OF = {"curate": VERDICTS, "caption": CAPTIONS, "shard": MEMBERS}
"""Stage -> the table of its folder that names its pairs."""

_MADE_OF: Mapping[str, str] = {
    "index": "shard",
    "train": "shard",
    "select": "train",
    "evaluate": "select",
    "publish": "select",
}
"""Stage -> the stage above it that says whether it was made with a pair."""

_STAYS = {
    "curate": "verdicts, which name uids alone",
    "caption": "the captions, in captions.parquet",
    "shard": "nothing: the members were erased",
    "index": "uids, and features if the index has some",
    "train": "the weights of its checkpoints, which learnt from the pairs",
    "select": "the weights of the model, which learnt from the pairs",
    "evaluate": "scores of that model",
    "publish": "the weights of the model; report.html may show the pairs",
    "score": "numbers and features computed from the pairs",
}


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
    for stage, table in _TABLE_OF.items():
        for manifest in _committed(root, stage):
            uri = join(root, stage, manifest.key)
            count = _count(join(uri, table), wanted)
            pairs_of[stage, manifest.key] = count
            if count:
                places.append(Place(stage, manifest.key, uri, count, _STAYS[stage]))
    for stage, above in _MADE_OF.items():
        for manifest in _committed(root, stage):
            count = pairs_of.get((above, manifest.inputs.get(above, "")), 0)
            pairs_of[stage, manifest.key] = count
            if count:
                uri = join(root, stage, manifest.key)
                places.append(Place(stage, manifest.key, uri, count, _STAYS[stage]))
    return places


def unfinished_folders(root: str) -> list[str]:
    """Return folders of training runs that never ended: no manifest says what they were made with."""
    stage_uri = join(root, "train")
    return [
        join(stage_uri, key)
        for key in list_folders(stage_uri)
        if key != PARTS and not is_committed(join(stage_uri, key))
    ]


def _committed(root: str, stage: str) -> list[Manifest]:
    """Return the manifests of a stage, oldest first."""
    return committed_manifests(join(root, stage))[::-1]


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
            yield Place("score", key, uri, count, _STAYS["score"])


def _count(table_uri: str, wanted: set[str]) -> int:
    with pq.ParquetFile(local_copy(table_uri)) as file:
        return sum(
            uid in wanted
            for batch in file.iter_batches(columns=["uid"])
            for uid in batch["uid"].to_pylist()
        )
