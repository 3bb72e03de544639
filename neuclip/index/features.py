"""Features of the training samples of a part, by a model, kept under the root for every later index.

Legend: N samples of a batch, D embedding width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.foundation.errors import NumericsError, ShapeError
from neuclip.foundation.progress import Progress
from neuclip.index.config import STAGE_VERSION
from neuclip.shards.files import MEMBERS
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.manifest import Manifest, part_uri, read_manifest
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace
from neuclip.storage.tables import ArrowTable

FEATURES = "features.parquet"

_SCHEMA = pa.schema(
    {
        "sample_id": pa.int64(),
        "image_feature": pa.list_(pa.float32()),
        "text_feature": pa.list_(pa.float32()),
    }
)
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureBatch:
    """Features of some samples, in the order of their ids."""

    sample_ids: npt.NDArray[np.int64]
    images: _Floats
    """[N, D]"""
    texts: _Floats
    """[N, D]"""


class SampleEncoder(Protocol):
    """Encodes the samples of a part; the room that knows models has one."""

    @property
    def model(self) -> str:
        """Hash of the model and all else that its features depend on."""
        ...

    @property
    def width(self) -> int:
        """Embedding width D."""
        ...

    def encode(self, shard_uri: str, members: Path) -> Iterator[FeatureBatch]:
        """Yield features of a part's training samples; one whose image does not decode is left out."""
        ...


def make_features(
    encoder: Loaded[SampleEncoder] | None,
    shard_uri: str,
    keys: Sequence[str],
    *,
    root: str,
    pool: Pool = LOCAL,
    progress: Progress,
    force: bool = False,
) -> dict[str, str]:
    """Make the features of shard parts that no earlier index has made; return key -> folder with features.parquet.

    Args:
        encoder: None makes none.
        keys: of the shard parts.
        force: make all of them.

    Raises: ShapeError: for a feature of another width. NumericsError: for one that is not finite.
    """
    if encoder is None:
        return {}
    shard_parts = {key: read_manifest(part_uri(shard_uri, key)) for key in keys}
    parts = {
        key: _features_part(encoder, shard_uri, part, root) for key, part in shard_parts.items()
    }
    do_parts(list(parts.values()), pool=pool, progress=progress, force=force)
    return {key: part.identity.uri for key, part in parts.items()}


def _features_part(
    encoder: Loaded[SampleEncoder], shard_uri: str, part: Manifest, root: str
) -> Part:
    inputs = {"model": encoder.here().model, "part": part.key}
    key = digest({"version": STAGE_VERSION, **inputs})
    return Part(
        StageIdentity("index", STAGE_VERSION, key, {}, inputs, root, part=True),
        partial(_encode, encoder, shard_uri, part.key, part.ledger.out),
        note=f"features of part {part.key}",
        size=max(part.ledger.out, 1),
    )


def _encode(
    encoder: Loaded[SampleEncoder],
    shard_uri: str,
    part_key: str,
    entered: int,
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    members = committed_file(part_uri(shard_uri, part_key), MEMBERS)
    count = 0
    with pq.ParquetWriter(workspace.output / FEATURES, _SCHEMA, compression="zstd") as writer:
        for batch in encoder.here().encode(shard_uri, members):
            _check(batch, encoder.here())
            writer.write_table(_table(batch))
            count += len(batch.sample_ids)
            progress("index", done=count, total=entered, note=f"features of part {part_key}")
    return Outcome(make_ledger(entered, count, {"undecodable": entered - count}))


def _check(batch: FeatureBatch, encoder: SampleEncoder) -> None:
    for side, features in (("image", batch.images), ("text", batch.texts)):
        if features.shape != (len(batch.sample_ids), encoder.width):
            raise ShapeError(
                f"{side} features of {len(batch.sample_ids)} samples by model {encoder.model[:12]} have shape "
                f"{features.shape}, expected a width of {encoder.width}; check index.features.model"
            )
        is_finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(features).all(axis=1))
        if not is_finite.all():
            bad = int(batch.sample_ids[int(np.argmin(is_finite))])
            raise NumericsError(
                f"the {side} feature of sample {bad} by model {encoder.model[:12]} is not finite, as are "
                f"{int((~is_finite).sum())} of {len(is_finite)}; set index.features.model to another checkpoint"
            )


def _table(batch: FeatureBatch) -> ArrowTable:
    sides = [
        pa.FixedSizeListArray.from_arrays(pa.array(side.ravel()), side.shape[1]).cast(
            pa.list_(pa.float32())
        )
        for side in (batch.images, batch.texts)
    ]
    return pa.table([pa.array(batch.sample_ids), *sides], schema=_SCHEMA)
