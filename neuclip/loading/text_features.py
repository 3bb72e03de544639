"""Features of the texts of samples, read from the side files of a committed index.

Legend: F width of a feature.
"""

import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16
from torch import Tensor

from neuclip.captions.text_features import Rows
from neuclip.foundation.errors import IntegrityError
from neuclip.index.side_files import feature_records
from neuclip.loading.captions import Captions
from neuclip.loading.policies import Caption
from neuclip.loading.side_files import SideFiles
from neuclip.stages.manifest import read_manifest

_HEADER_BYTES = 4096
_REDO = "run `--only index --force`"


class TextFeatures:
    """Features by the text that a sample shows; a text that was taken down, and a sample without any, have zeros.

    Args:
        index_uri: committed index; its side files hold the features, its manifest says of which encoder.
        cache_gb: size of the cache for files of a remote root, which shards share.
    """

    def __init__(self, index_uri: str, *, cache_gb: float) -> None:
        self.encoder: dict[str, Any] = read_manifest(index_uri).summary["text_encoder"]
        self._width = int(self.encoder["width"])
        self.side: SideFiles[Rows] = SideFiles(feature_records(index_uri), cache_gb=cache_gb)

    @property
    def sources(self) -> list[str]:
        """The sources that were encoded."""
        return self.side.sources

    def of(
        self, captions: Captions, shard: str, row: int, caption: Caption
    ) -> Float16[Tensor, " F"]:
        """Return the feature of a text that a sample shows.

        Raises: IntegrityError: for a side file that is missing or damaged, or has not one feature for each text.
        """
        if not caption.source:
            return torch.zeros(self._width, dtype=torch.float16)
        first, count = captions.place_of(caption.source, shard, row)
        features = self._features(caption.source, shard, count)
        return torch.from_numpy(np.array(features[first + caption.k]))

    def _features(self, source: str, shard: str, count: int) -> Rows:
        if source not in self.sources:
            raise IntegrityError(
                f"the texts of source {source!r} were not encoded: name it in text_encoder.sources, or leave that out, "
                "and run `--from text_encoder`"
            )
        return self.side.get(
            source, shard, lambda files: _rows(*files.map(shard), count, self._width)
        )


def _rows(path: Path, content: mmap.mmap, count: int, width: int) -> Rows:
    """Read a file of features where it lies in memory."""
    try:
        head = io.BytesIO(content[:_HEADER_BYTES])
        np.lib.format.read_magic(head)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(head)
    except ValueError as error:
        raise IntegrityError(f"{path} is no side file of features: {error}; {_REDO}") from error
    if (shape, is_fortran, dtype) != ((count, width), False, np.dtype(np.float16)):
        raise IntegrityError(
            f"{path} holds {dtype} {list(shape)}, expected float16 {[count, width]}, a feature of the encoder's width "
            f"for each text beside it; {_REDO}"
        )
    rows = np.frombuffer(content, np.float16, count * width, head.tell())
    return rows.reshape(count, width)
