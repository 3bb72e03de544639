"""Read the sample index: where every training sample lies."""

from dataclasses import dataclass
from itertools import pairwise

import duckdb
import numpy as np
import numpy.typing as npt

from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.index.database import INDEX
from neuclip.stages.committed import committed_file
from neuclip.storage.uris import join

_SHARDS = """
    SELECT shard, min(sample_id), max(sample_id) + 1, count(*) FROM samples GROUP BY shard
    ORDER BY min(sample_id)"""
_PLACES = """
    SELECT image_offset, image_size, json_offset, json_size FROM samples ORDER BY sample_id"""


@dataclass(frozen=True)
class SampleTable:
    """Where all samples lie; arrays of length n in the order of `sample_id`."""

    shards: list[str]
    """Names of the training shards in the order of their samples."""
    first: npt.NDArray[np.int64]
    """Id of the first sample of each shard; the others follow in its order."""
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


def open_index(index_uri: str) -> duckdb.DuckDBPyConnection:
    """Open a committed index for reading; any number of processes may.

    Raises: IntegrityError: if it is not the file that was committed.
    """
    path = committed_file(index_uri, INDEX)
    try:
        return duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        raise IntegrityError(
            f"{join(index_uri, INDEX)} cannot be opened as an index: {error}; run `--only index --force`"
        ) from error


def read_samples(index_uri: str) -> SampleTable:
    """Read where all samples lie from a committed index.

    Raises: DataError: if the index has no samples. IntegrityError: if a shard's ids do not follow one another.
    """
    with open_index(index_uri) as connection:
        shards = connection.execute(_SHARDS).fetchall()
        columns = connection.execute(_PLACES).fetchnumpy()
    if not shards:
        raise DataError(
            f"the index {index_uri} has no samples; look at the ledgers of the stages above it"
        )
    starts = [0, *(int(end) for _, _, end, _ in shards)]
    for (start, end), (name, first, _, count) in zip(pairwise(starts), shards, strict=True):
        if (first, count) != (start, end - start):
            raise IntegrityError(
                f"shard {name} has {count} samples from id {first} on in {index_uri}, expected ids {start} to "
                f"{end - 1}; run `--only index --force`"
            )
    return SampleTable(
        shards=[str(name) for name, *_ in shards],
        first=np.array(starts[:-1], dtype=np.int64),
        shard=np.repeat(np.arange(len(shards), dtype=np.int32), np.diff(starts)),
        image_offset=np.asarray(columns["image_offset"], dtype=np.int64),
        image_size=np.asarray(columns["image_size"], dtype=np.int64),
        json_offset=np.asarray(columns["json_offset"], dtype=np.int64),
        json_size=np.asarray(columns["json_size"], dtype=np.int64),
    )
