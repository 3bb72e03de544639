"""Build the sample index; what an earlier index holds of the same parts is copied, not read again."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from neuclip.foundation.progress import Progress
from neuclip.index.clusters import fill_clusters
from neuclip.index.config import STAGE_VERSION, IndexConfig
from neuclip.index.database import INDEX, IndexDatabase
from neuclip.index.features import FEATURES, SampleEncoder, make_features
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
from neuclip.storage.uris import join, parent_of

STAGE = "index"
_PARTS_AT_ONCE = 16


def run_index(
    config: IndexConfig,
    *,
    shard_uri: str,
    caption_uri: str,
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
        encoder: of `config.features`; each part's features are kept at the root under `index/parts`.
        force: read all parts.
    Raises: IntegrityError: if ids are not exactly 0 .. n-1 in the order of the parts, or a uid is there twice.
        ShapeError, NumericsError: for features of a wrong width or not finite.
    """
    shard = read_manifest(shard_uri)
    model = encoder.here().model if encoder is not None else None
    stage_uri = parent_of(workspace.uri)
    earlier = None if force else _earlier(stage_uri, config, model, shard.parts)
    reused: list[str] = earlier.summary["parts"] if earlier is not None else []
    added = shard.parts[len(reused) :]
    features = make_features(
        encoder, shard_uri, added, root=root, pool=pool, progress=progress, force=force
    )
    path = _begin(earlier, stage_uri, workspace)
    with IndexDatabase(path, scratch=workspace.scratch) as database:
        for first in range(0, len(added), _PARTS_AT_ONCE):
            progress(STAGE, done=first, total=len(added), note="adding parts")
            _add(database, added[first : first + _PARTS_AT_ONCE], shard_uri, features, model)
        database.check(shard.ledger.out)
        if model is not None and config.clusters is not None:
            fill_clusters(database.connection, model=model, clusters=config.clusters)
    texts = build_text_files(
        shard_uri,
        caption_uri,
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
        **texts,
        "parts": shard.parts,
        "reused_parts": len(reused),
        "features_model": model,
    }
    return Outcome(ledger=make_ledger(count, count, {}), summary=summary)


def _begin(earlier: Manifest | None, stage_uri: str, workspace: Workspace) -> Path:
    """Return where the index is built: on a copy of an earlier one if there is one."""
    path = workspace.output / INDEX
    if earlier is not None:
        shutil.copyfile(committed_file(join(stage_uri, earlier.key), INDEX), path)
    return path


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
