"""Features of the training samples of a part, by a model, kept under the root for every later index.

Legend: N samples of a batch, D embedding width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.foundation.errors import NumericsError, ShapeError
from neuclip.index.config import STAGE_VERSION
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import Manifest
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
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


def part_features(
    encoder: SampleEncoder,
    shard_uri: str,
    part: Manifest,
    *,
    root: str,
    members: Path,
    force: bool = False,
) -> Path:
    """Return the features of a part's samples as a Parquet file, computed unless an earlier index did.

    Args:
        force: compute them in any case.

    Raises: ShapeError: for a feature of another width. NumericsError: for one that is not finite.
    """
    inputs = {"model": encoder.model, "part": part.key}
    key = digest({"version": STAGE_VERSION, **inputs})
    identity = StageIdentity("index", STAGE_VERSION, key, {}, inputs, root, part=True)

    def work(workspace: Workspace) -> Outcome:
        count = 0
        with pq.ParquetWriter(workspace.output / FEATURES, _SCHEMA, compression="zstd") as writer:
            for batch in encoder.encode(shard_uri, members):
                _check(batch, encoder)
                writer.write_table(_table(batch))
                count += len(batch.sample_ids)
        entered = part.ledger.out
        return Outcome(make_ledger(entered, count, {"undecodable": entered - count}))

    commit_stage(identity, work, force=force)
    return committed_file(identity.uri, FEATURES)


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
