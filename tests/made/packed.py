"""From pairs made by hand to a committed index, through the project's own stages."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from made.acquired import Pair, commit_acquired

from neuclip.captions.config import CaptionConfig
from neuclip.captions.run import run_caption
from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.foundation.progress import silent
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
    acquire_uri = commit_acquired(root, partitions, f"acquired-{key}")

    def commit(stage, work, version=1, section=None):
        identity = StageIdentity(stage, version, f"{stage}-{key}", section or {}, {}, str(root))
        commit_stage(identity, work, force=force and stage in ("shard", "index"))
        return identity.uri

    def places(workspace):
        return {"workspace": workspace, "progress": silent}

    curate_uri = commit(
        "curate",
        lambda w: run_curate(curate or CurateConfig(), acquire_uri=acquire_uri, **places(w)),
    )
    caption_uri = commit(
        "caption",
        lambda w: run_caption(
            caption or CaptionConfig(),
            root=str(root),
            acquire_uri=acquire_uri,
            curate_uri=curate_uri,
            force=force,
            **places(w),
        ),
    )
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


def _same(encoder: SampleEncoder) -> SampleEncoder:
    return encoder
