"""Features of training samples, read from the shards that they are packed in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from neuclip.curate.scores import ModelScore
from neuclip.index.features import FeatureBatch
from neuclip.loading.mapped_files import CACHE_GB
from neuclip.loading.shard_files import ShardFiles
from neuclip.scoring.clip import ClipModel
from neuclip.shards.members import TRAIN
from neuclip.stages.keys import digest

_COLUMNS = ["split", "sample_id", "shard", "image_offset", "image_size", "text_offset", "text_size"]
_AT_ONCE = 1024

_Row = dict[str, Any]


class ShardEncoder:
    """Encodes image and alt text of training samples by a model folder; the text feature of one without is zero.

    Raises: CheckpointError: for a model folder that cannot be read.
    """

    def __init__(self, config: ModelScore) -> None:
        self._clip = ClipModel(config)
        self.model = digest({"weights": self._clip.sha256, "precision": config.precision})

    @property
    def width(self) -> int:
        """Embedding width.

        Raises: NumericsError: if a weight is not finite.
        """
        return self._clip.towers.embed_dim

    def encode(self, shard_uri: str, members: Path) -> Iterator[FeatureBatch]:
        """Yield unit-norm features of a part's training samples; one whose image does not decode is left out.

        Args:
            shard_uri: committed folder of the shard stage.
            members: the part's member table.
        """
        files = ShardFiles(shard_uri, cache_gb=CACHE_GB)
        with pq.ParquetFile(members) as table:
            for batch in table.iter_batches(_AT_ONCE, columns=_COLUMNS):
                rows = [row for row in batch.to_pylist() if row["split"] == TRAIN]
                if rows:
                    yield self._encode(files, rows)
                    files.close_all_but([rows[-1]["shard"]])

    def _encode(self, files: ShardFiles, rows: list[_Row]) -> FeatureBatch:
        images, decoded = self._clip.encode_files(
            files.open(row["shard"]).read(row["image_offset"], row["image_size"]) for row in rows
        )
        readable = [row for row, is_good in zip(rows, decoded, strict=True) if is_good]
        alts = [_alt(files, row) for row in readable]
        told = [place for place, alt in enumerate(alts) if alt is not None]
        texts = torch.zeros_like(images)
        texts[told] = self._clip.text_features([alts[place] or "" for place in told])
        return FeatureBatch(
            np.array([row["sample_id"] for row in readable], dtype=np.int64),
            images.float().numpy(),
            texts.float().numpy(),
        )


def _alt(files: ShardFiles, row: _Row) -> str | None:
    if row["text_offset"] is None:
        return None
    return files.open(row["shard"]).read(row["text_offset"], row["text_size"]).decode()
