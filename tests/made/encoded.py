"""Features of the texts of packed pairs, through the project's own stages."""

from dataclasses import dataclass
from pathlib import Path

from made.packed import Packed

from neuclip.foundation.progress import Progress, silent
from neuclip.index import config as index
from neuclip.index.config import IndexConfig
from neuclip.index.run import run_index
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import StageIdentity, commit_stage
from neuclip.text_encoder.config import STAGE_VERSION, TextEncoderConfig
from neuclip.text_encoder.run import commit_encoder, run_text_encoder


@dataclass(frozen=True)
class Encoded(Packed):
    text_encoder: str


def settings(folder: Path, **fields) -> TextEncoderConfig:
    return TextEncoderConfig(
        folder=str(folder), **{"precision": "float32", "max_tokens": 128, **fields}
    )


def encode_texts(
    root: Path,
    caption_uri: str,
    config: TextEncoderConfig,
    *,
    key: str = "key",
    progress: Progress = silent,
    pool: Pool = LOCAL,
    force: bool = False,
) -> str:
    """Commit the stage text_encoder; return its folder."""
    identity = StageIdentity("text_encoder", STAGE_VERSION, f"encoded-{key}", {}, {}, str(root))
    encoder = commit_encoder(config, str(root))
    commit_stage(
        identity,
        lambda w: run_text_encoder(
            config,
            root=str(root),
            caption_uri=caption_uri,
            encoder_uri=encoder,
            workspace=w,
            progress=progress,
            pool=pool,
            force=force,
        ),
        force=force,
    )
    return identity.uri


def index_features(
    root: Path, packed: Packed, text_encoder_uri: str, *, key: str = "key", force: bool = False
) -> str:
    """Commit an index with side files of features; return its folder."""
    identity = StageIdentity(
        "index", index.STAGE_VERSION, f"features-{key}", IndexConfig().keyed(), {}, str(root)
    )
    commit_stage(
        identity,
        lambda w: run_index(
            IndexConfig(),
            shard_uri=packed.shard,
            caption_uri=packed.caption,
            text_encoder_uri=text_encoder_uri,
            root=str(root),
            force=force,
            workspace=w,
            progress=silent,
        ),
        force=force,
    )
    return identity.uri


def encoded(root: Path, packed: Packed, folder: Path, *, key: str = "key", **fields) -> Encoded:
    """Encode the texts of packed pairs, and index them with their features."""
    uri = encode_texts(root, packed.caption, settings(folder, **fields), key=key)
    return Encoded(
        **{**vars(packed), "index": index_features(root, packed, uri, key=key)}, text_encoder=uri
    )
