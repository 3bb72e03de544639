"""Read the sample index: where every training sample lies."""

from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt

from neuclip.foundation.errors import DataError
from neuclip.index.run import INDEX
from neuclip.stages.manifest import read_manifest, verify_sizes
from neuclip.storage.cache import local_copy
from neuclip.storage.uris import join


@dataclass(frozen=True)
class SampleTable:
    """Where all samples lie; arrays of length n in the order of `sample_id`."""

    shards: list[str]
    """Names of the training shards in order."""
    shard: npt.NDArray[np.int32]
    """Place of each sample's shard in `shards`."""
    image_offset: npt.NDArray[np.int64]
    image_size: npt.NDArray[np.int64]
    json_offset: npt.NDArray[np.int64]
    json_size: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of samples n."""
        return len(self.shard)


def read_samples(index_uri: str) -> SampleTable:
    """Read where all samples lie from a committed index.

    Raises: DataError: if the index has no samples.
    """
    verify_sizes(index_uri, read_manifest(index_uri))
    with duckdb.connect(str(local_copy(join(index_uri, INDEX))), read_only=True) as connection:
        columns = connection.execute(
            "SELECT shard, image_offset, image_size, json_offset, json_size FROM samples ORDER BY sample_id"
        ).fetchnumpy()
    if len(columns["shard"]) == 0:
        raise DataError(
            f"the index {index_uri} has no samples; look at the ledgers of the stages above it"
        )
    names, place = np.unique(np.asarray(columns["shard"]).astype(str), return_inverse=True)
    return SampleTable(
        shards=[str(name) for name in names],
        shard=place.astype(np.int32),
        image_offset=np.asarray(columns["image_offset"], dtype=np.int64),
        image_size=np.asarray(columns["image_size"], dtype=np.int64),
        json_offset=np.asarray(columns["json_offset"], dtype=np.int64),
        json_size=np.asarray(columns["json_size"], dtype=np.int64),
    )
