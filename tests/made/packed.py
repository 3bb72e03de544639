"""From pairs made by hand to a committed index, through the project's own stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from made.acquired import Pair, commit_acquired

from neuclip.captions.config import CaptionConfig
from neuclip.captions.generated import Writing
from neuclip.captions.run import run_caption
from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.foundation.progress import Progress, silent
from neuclip.index import config as index
from neuclip.index.config import IndexConfig
from neuclip.index.features import SampleEncoder
from neuclip.index.run import run_index
from neuclip.shards import config as shards
from neuclip.shards.config import ShardConfig
from neuclip.shards.run import run_shard
from neuclip.stages.loaded import Loaded
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import StageIdentity, commit_stage


@dataclass(frozen=True)
class Packed:
    acquire: str
    curate: str
    caption: str
    shard: str
    index: str


def pack(
    root: Path,
    partitions: list[list[Pair]],
    *,
    seed: int = 0,
    curate: CurateConfig | None = None,
    caption: CaptionConfig | None = None,
    shard: ShardConfig | None = None,
    key: str = "key",
    index_config: IndexConfig | None = None,
    encoder: SampleEncoder | None = None,
    force: bool = False,
    pool: Pool = LOCAL,
) -> Packed:
    """Commit all data stages below a root; with another `key` another run at the same root."""
    config = index_config or IndexConfig()
    shard = shard or ShardConfig(samples_per_shard=20, selection_share=0.2)
    acquire_uri, curate_uri, caption_uri = gather(
        root, partitions, curate=curate, caption=caption, key=key, force=force
    )

    def commit(stage, work, version, section):
        identity = StageIdentity(stage, version, f"{stage}-{key}", section, {}, str(root))
        commit_stage(identity, work, force=force)
        return identity.uri

    def places(workspace):
        return {"workspace": workspace, "progress": silent}

    shard_uri = commit(
        "shard",
        lambda w: run_shard(
            shard,
            seed=seed,
            root=str(root),
            acquire_uri=acquire_uri,
            curate_uri=curate_uri,
            force=force,
            pool=pool,
            **places(w),
        ),
        shards.STAGE_VERSION,
        {**shard.keyed(), "seed": seed},
    )
    index_uri = commit(
        "index",
        lambda w: run_index(
            config,
            shard_uri=shard_uri,
            caption_uri=caption_uri,
            root=str(root),
            encoder=None if encoder is None else Loaded(partial(_same, encoder)),
            force=force,
            pool=pool,
            **places(w),
        ),
        index.STAGE_VERSION,
        config.keyed(),
    )
    return Packed(acquire_uri, curate_uri, caption_uri, shard_uri, index_uri)


def gather(
    root: Path,
    partitions: list[list[Pair]],
    *,
    curate: CurateConfig | None = None,
    caption: CaptionConfig | None = None,
    writings: Sequence[Writing] = (),
    key: str = "key",
    force: bool = False,
    progress: Progress = silent,
) -> tuple[str, str, str]:
    """Commit acquire, curate and caption below a root; return their folders."""
    acquire_uri = commit_acquired(root, partitions, f"acquired-{key}")

    def commit(stage, work):
        identity = StageIdentity(stage, 1, f"{stage}-{key}", {}, {}, str(root))
        commit_stage(identity, work)
        return identity.uri

    curate_uri = commit(
        "curate",
        lambda w: run_curate(
            curate or CurateConfig(), acquire_uri=acquire_uri, workspace=w, progress=progress
        ),
    )
    caption_uri = commit(
        "caption",
        lambda w: run_caption(
            caption or CaptionConfig(),
            root=str(root),
            acquire_uri=acquire_uri,
            curate_uri=curate_uri,
            writings=writings,
            force=force,
            workspace=w,
            progress=progress,
        ),
    )
    return acquire_uri, curate_uri, caption_uri


def _same(encoder: SampleEncoder) -> SampleEncoder:
    return encoder
