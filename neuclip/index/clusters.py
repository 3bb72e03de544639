"""Clusters of the samples by their image features."""

from collections.abc import Iterator

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.curate.semantic import nearest_clusters, train_clusters
from neuclip.foundation.randomness import keyed_hash

_SEED = 0
_TRAINING_SAMPLES = 256
"""For each cluster."""
_ROWS_AT_ONCE = 1 << 14

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


def fill_clusters(connection: duckdb.DuckDBPyConnection, *, model: str, clusters: int) -> None:
    """Put every sample with features into the nearest of so many k-means centroids; the table is made anew.

    K-means is trained on samples drawn by the hash of their ids, so that features larger than memory will do.
    """
    connection.execute("DELETE FROM clusters")
    ids = connection.execute("SELECT sample_id FROM features ORDER BY sample_id").fetchnumpy()[
        "sample_id"
    ]
    if not len(ids):
        return
    lowest = np.argsort(keyed_hash(ids, seed=_SEED), kind="stable")[: clusters * _TRAINING_SAMPLES]
    connection.register("drawn", pa.table({"sample_id": np.sort(ids[lowest])}))
    drawn = [rows for _, rows in _read(connection, "SEMI JOIN drawn USING (sample_id)")]
    centroids = train_clusters(np.concatenate(drawn), clusters=clusters, seed=_SEED, spherical=True)
    with connection.cursor() as reading:
        for found, rows in _read(reading, ""):
            nearest = nearest_clusters(rows, centroids, spherical=True).astype(np.int32)
            columns = {"sample_id": found, "model": [model] * len(found), "cluster": nearest}
            connection.from_arrow(pa.table(columns)).insert_into("clusters")


def _read(connection: duckdb.DuckDBPyConnection, only: str) -> Iterator[tuple[_Ids, _Floats]]:
    query = f"SELECT sample_id, image_feature FROM features {only} ORDER BY sample_id"  # noqa: S608
    for batch in connection.sql(query).to_arrow_reader(_ROWS_AT_ONCE):
        ids, features = batch.column(0).to_numpy(), batch.column(1)
        yield ids, features.flatten().to_numpy().reshape(len(ids), -1)
