"""Build the sample index; what an earlier index holds of the same parts is copied, not read again."""

import shutil
from pathlib import Path

from neuclip.foundation.progress import Progress
from neuclip.index.clusters import fill_clusters
from neuclip.index.config import STAGE_VERSION, IndexConfig
from neuclip.index.database import INDEX, IndexDatabase
from neuclip.index.features import SampleEncoder, part_features
from neuclip.index.texts import build_text_files
from neuclip.shards.files import MEMBERS
from neuclip.stages.committed import committed_file
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import (
    Manifest,
    committed_manifests,
    part_uri,
    read_manifest,
    verify_sizes,
)
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
    encoder: SampleEncoder | None = None,
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
    model = encoder.model if encoder is not None else None
    earlier = None if force else _earlier(parent_of(workspace.uri), config, model, shard.parts)
    reused: list[str] = earlier.summary["parts"] if earlier is not None else []
    path = workspace.output / INDEX
    if earlier is not None:
        shutil.copyfile(committed_file(join(parent_of(workspace.uri), earlier.key), INDEX), path)
    with IndexDatabase(path, scratch=workspace.scratch) as database:
        for first in range(len(reused), len(shard.parts), _PARTS_AT_ONCE):
            progress(STAGE, done=first, total=len(shard.parts), note="adding parts")
            keys = shard.parts[first : first + _PARTS_AT_ONCE]
            parts = [_open_part(part_uri(shard_uri, key)) for key in keys]
            database.add_parts(parts)
            if encoder is not None:
                for part, members in parts:
                    features = part_features(
                        encoder, shard_uri, part, root=root, members=members, force=force
                    )
                    database.add_features(features, model=encoder.model)
        database.check(shard.ledger.out)
        if encoder is not None and config.clusters is not None:
            fill_clusters(database.connection, model=encoder.model, clusters=config.clusters)
    count = shard.ledger.out
    progress(STAGE, done=len(shard.parts), total=len(shard.parts), note=f"{count} samples")
    texts = build_text_files(
        shard_uri,
        caption_uri,
        root=root,
        workspace=workspace,
        earlier=_earlier_texts(parent_of(workspace.uri)),
        progress=progress,
        force=force,
    )
    summary = {
        "samples": count,
        "texts": texts,
        "parts": shard.parts,
        "reused_parts": len(reused),
        "features_model": model,
    }
    return Outcome(ledger=make_ledger(count, count, {}), summary=summary)


def _open_part(uri: str) -> tuple[Manifest, Path]:
    """Return the manifest of a part and its member table, as a local file."""
    part = read_manifest(uri)
    verify_sizes(uri, part)
    return part, committed_file(uri, MEMBERS)


def _earlier_texts(stage_uri: str) -> dict[str, list[str]]:
    """Return what side files of texts were made of -> their parts, of all committed indexes."""
    return {
        texts["made_of"]: texts["parts"]
        for manifest in committed_manifests(stage_uri)
        for texts in manifest.summary["texts"].values()
    }


def _earlier(
    stage_uri: str, config: IndexConfig, model: str | None, parts: list[str]
) -> Manifest | None:
    """Return the committed index of these settings that holds most of the first parts, and nothing else."""
    fitting = [
        manifest
        for manifest in committed_manifests(stage_uri)
        if (manifest.stage_version, manifest.section) == (STAGE_VERSION, config.keyed())
        and manifest.summary["features_model"] == model
        and manifest.summary["parts"] == parts[: len(manifest.summary["parts"])]
    ]
    return max(fitting, key=lambda manifest: len(manifest.summary["parts"]), default=None)
