"""Build the sample index; what an earlier index holds of the same parts is copied, not read again."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuclip.foundation.progress import Progress
from neuclip.index.clusters import fill_clusters
from neuclip.index.config import STAGE_VERSION, IndexConfig
from neuclip.index.database import INDEX, IndexDatabase
from neuclip.index.features import FEATURES, SampleEncoder, make_features
from neuclip.index.text_features import build_feature_files
from neuclip.index.texts import build_text_files
from neuclip.shards.files import MEMBERS
from neuclip.stages.committed import committed_file
from neuclip.stages.ledger import make_ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.manifest import (
    Manifest,
    committed_manifests,
    part_uri,
    read_manifest,
    verify_sizes,
)
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join, name_of, parent_of

STAGE = "index"
_PARTS_AT_ONCE = 16


def run_index(
    config: IndexConfig,
    *,
    shard_uri: str,
    caption_uri: str,
    text_encoder_uri: str | None = None,
    root: str,
    workspace: Workspace,
    progress: Progress,
    encoder: Loaded[SampleEncoder] | None = None,
    pool: Pool = LOCAL,
    force: bool = False,
) -> Outcome:
    """Write `index.duckdb`, see database.py for its tables, and side files with the texts of all samples.

    Of the root's earlier indexes with the same settings, the one that has most of the parts, from the first on, is the
    beginning; only the member tables of the others are read.

    Args:
        text_encoder_uri: the stage that made features of the texts, if there is one: they become side files too.
        encoder: of `config.features`; each part's features are kept at the root under `index/parts`.
        force: read all parts.
    Raises: IntegrityError: if ids are not exactly 0 .. n-1 in the order of the parts, or a uid is there twice.
        ShapeError, NumericsError: for features of a wrong width or not finite.
    """
    shard = read_manifest(shard_uri)
    model = encoder.here().model if encoder is not None else None
    stage_uri = parent_of(workspace.uri)
    earlier = None if force else _earlier(stage_uri, config, model, shard.parts)
    added = shard.parts[len(earlier.summary["parts"]) if earlier is not None else 0 :]
    features = make_features(
        encoder, shard_uri, added, root=root, pool=pool, progress=progress, force=force
    )
    path = _begin(earlier, stage_uri, workspace)
    with IndexDatabase(path, scratch=workspace.scratch) as database:
        _add_all(database, added, shard_uri, features, model, progress)
        database.check(shard.ledger.out)
        if model is not None and config.clusters is not None:
            fill_clusters(database.connection, model=model, clusters=config.clusters)
    sides = _side_files(
        shard_uri,
        caption_uri,
        text_encoder_uri,
        root=root,
        workspace=workspace,
        earlier=[] if force else _of_this_version(stage_uri),
        progress=progress,
        force=force,
    )
    count = shard.ledger.out
    progress(STAGE, done=len(shard.parts), total=len(shard.parts), note=f"{count} samples")
    summary = {
        "samples": count,
        **sides,
        "parts": shard.parts,
        "reused_parts": len(shard.parts) - len(added),
        "features_model": model,
    }
    return Outcome(ledger=make_ledger(count, count, {}), summary=summary)


def _side_files(
    shard_uri: str,
    caption_uri: str,
    text_encoder_uri: str | None,
    *,
    root: str,
    workspace: Workspace,
    earlier: Sequence[Manifest],
    progress: Progress,
    force: bool,
) -> dict[str, Any]:
    """Build the side files of texts, and those of their features where there are some; return what the summary says."""
    texts = build_text_files(
        shard_uri,
        caption_uri,
        root=root,
        workspace=workspace,
        earlier=earlier,
        progress=progress,
        force=force,
    )
    said: dict[str, Any] = {
        "captions": name_of(caption_uri),
        "texts": {source: [part.key for part in parts] for source, parts in texts.items()},
    }
    if text_encoder_uri is None:
        return said
    return said | build_feature_files(
        shard_uri,
        text_encoder_uri,
        texts,
        root=root,
        workspace=workspace,
        progress=progress,
        force=force,
    )


def _begin(earlier: Manifest | None, stage_uri: str, workspace: Workspace) -> Path:
    """Return where the index is built: on a copy of an earlier one if there is one."""
    path = workspace.output / INDEX
    if earlier is not None:
        shutil.copyfile(committed_file(join(stage_uri, earlier.key), INDEX), path)
    return path


def _add_all(
    database: IndexDatabase,
    keys: Sequence[str],
    shard_uri: str,
    features: Mapping[str, str],
    model: str | None,
    progress: Progress,
) -> None:
    """Add parts, few at a time; see `_add`."""
    for first in range(0, len(keys), _PARTS_AT_ONCE):
        progress(STAGE, done=first, total=len(keys), note="adding parts")
        _add(database, keys[first : first + _PARTS_AT_ONCE], shard_uri, features, model)


def _add(
    database: IndexDatabase,
    keys: Sequence[str],
    shard_uri: str,
    features: Mapping[str, str],
    model: str | None,
) -> None:
    """Add some parts, with the features of their samples if there is a model.

    Args:
        features: part -> folder with features.parquet.
    """
    parts = [_open_part(part_uri(shard_uri, key)) for key in keys]
    database.add_parts(parts)
    if model is not None:
        for part, _ in parts:
            database.add_features(committed_file(features[part.key], FEATURES), model=model)


def _open_part(uri: str) -> tuple[Manifest, Path]:
    """Return the manifest of a part and its member table, as a local file."""
    part = read_manifest(uri)
    verify_sizes(uri, part)
    return part, committed_file(uri, MEMBERS)


def _of_this_version(stage_uri: str) -> list[Manifest]:
    return [
        manifest
        for manifest in committed_manifests(stage_uri)
        if manifest.stage_version == STAGE_VERSION
    ]


def _earlier(
    stage_uri: str, config: IndexConfig, model: str | None, parts: list[str]
) -> Manifest | None:
    """Return the committed index of these settings that holds most of the first parts, and nothing else."""
    fitting = [
        manifest
        for manifest in _of_this_version(stage_uri)
        if manifest.section == config.keyed()
        and manifest.summary["features_model"] == model
        and manifest.summary["parts"] == parts[: len(manifest.summary["parts"])]
    ]
    return max(fitting, key=lambda manifest: len(manifest.summary["parts"]), default=None)
