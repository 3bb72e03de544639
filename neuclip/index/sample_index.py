"""The sample index as a source of prototypes, and of what training found out about each sample."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.foundation.errors import ConfigError, DataError
from neuclip.index.database import INDEX
from neuclip.index.draws import Ids, draw_spread, draw_stratified, draw_uniform
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import is_committed, read_manifest
from neuclip.storage.tables import MEMORY_LIMIT
from neuclip.storage.uris import join, name_of, parent_of

log = logging.getLogger(__name__)

STATISTICS = "sample_statistics.parquet"
"""In the folder of a train stage with `train.sample_statistics`: what the run found out about each sample."""

Strategy = Literal["uniform", "stratified", "kmeans++"]
_TABLE_OF = {"stratified": "clusters", "kmeans++": "features"}
_MOST_CANDIDATES = 1 << 16
_ROWS_AT_ONCE = 1 << 13


class SampleIndex:
    """A committed sample index, read-only; many processes may have it open.

    Args:
        index_uri: committed folder of the index stage.
    Raises: IntegrityError: if it is not what was committed. DataError: if it has no samples.
    """

    def __init__(self, index_uri: str) -> None:
        self.uri = index_uri
        self._path = committed_file(index_uri, INDEX)
        self._statistics: Path | None = None
        with self.connect() as connection:
            self.count = int(connection.sql("SELECT count(*) FROM samples").fetchall()[0][0])
        if self.count == 0:
            raise DataError(
                f"the index {index_uri} has no samples; look at the ledgers of the stages above it"
            )

    def with_statistics(self, train_uri: str) -> "SampleIndex":
        """Return the same index, with the table `sample_statistics` of a finished training run.

        The run may have been before parts were added to the index: ids of samples never change.

        Raises: DataError: if the run recorded none, or saw the samples of another index.
        """
        manifest = read_manifest(train_uri)
        own = name_of(self.uri)
        trained_on = manifest.inputs.get("index", own)
        if trained_on != own and not self._begins_with(trained_on):
            raise DataError(
                f"{train_uri} was trained on the samples of index {trained_on}, which index {own} does not "
                "begin with; open that one"
            )
        if STATISTICS not in {file.name for file in manifest.files}:
            raise DataError(
                f"{train_uri} has no {STATISTICS}; train with train.sample_statistics: true to get them"
            )
        found = SampleIndex(self.uri)
        found._statistics = committed_file(train_uri, STATISTICS)
        return found

    def _begins_with(self, key: str) -> bool:
        """Tell whether the index of this key is of the first parts of this one."""
        uri = join(parent_of(self.uri), key)
        if not is_committed(uri):
            return False
        parts = read_manifest(uri).summary["parts"]
        return read_manifest(self.uri).summary["parts"][: len(parts)] == parts

    @contextmanager
    def connect(self) -> Generator[duckdb.DuckDBPyConnection]:
        """Open the tables for SQL; they cannot be written to."""
        with duckdb.connect(str(self._path), read_only=True) as connection:
            connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            if self._statistics is not None:
                path = str(self._statistics).replace("'", "''")  # a view takes no parameters
                connection.execute(
                    f"CREATE TEMP VIEW sample_statistics AS SELECT * FROM read_parquet('{path}')"  # noqa: S608
                )
            yield connection

    def prototypes(self, m: int, strategy: Strategy = "uniform", seed: int = 0) -> Ids:
        """Draw m different sample ids, a pure function of the index's content, m, strategy and seed.

        `uniform`: all samples alike. `stratified`: from every cluster in proportion to its size.
        `kmeans++`: far from each other, by image and text features, among at most 65,536 samples
        (or 4 m) that are drawn uniformly first.

        Raises: ConfigError: if there are fewer than m. DataError: if features or clusters are
            missing or do not fit together.
        """
        ids, more = self._population(m, strategy, seed)
        if strategy == "uniform":
            return draw_uniform(ids, m, seed=seed)
        if strategy == "stratified":
            return draw_stratified(ids, more.astype(np.int64), m, seed=seed)
        return draw_spread(ids, more.astype(np.float32), m, seed=seed)

    def require(self, m: int, strategy: Strategy) -> None:
        """Refuse, as `prototypes` does, what cannot be drawn; without drawing."""
        self._population(m, strategy, seed=0)

    def _population(
        self, m: int, strategy: Strategy, seed: int
    ) -> tuple[Ids, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
        """Return the ids that are drawn from, and what the strategy needs to know of each."""
        everything = np.arange(self.count, dtype=np.int64)
        if strategy == "uniform":
            self._require_enough(m, everything, "samples")
            return everything, everything
        if strategy not in _TABLE_OF:
            raise ConfigError(
                f"strategy {strategy!r} is unknown; known are uniform, {', '.join(_TABLE_OF)}"
            )
        table = _TABLE_OF[strategy]
        with self.connect() as connection:
            model = self._model_of(connection, table, strategy)
            value = ", cluster" if table == "clusters" else ""
            found = connection.sql(
                f"SELECT sample_id{value} FROM {table} WHERE model = $1 ORDER BY sample_id",  # noqa: S608
                params=[model],
            ).fetchnumpy()
            ids = np.asarray(found["sample_id"], dtype=np.int64)
            self._require_known(ids, table)
            self._require_enough(m, ids, f"samples with {table}")
            if table == "clusters":
                return ids, np.asarray(found["cluster"], dtype=np.int64)
            candidates = draw_uniform(ids, min(len(ids), max(_MOST_CANDIDATES, 4 * m)), seed=seed)
            return _read_features(connection, np.sort(candidates), model)

    def _model_of(
        self, connection: duckdb.DuckDBPyConnection, table: str, strategy: Strategy
    ) -> str:
        """Return the one model whose features or clusters the index has."""
        is_there = connection.sql(
            "SELECT count(*) FROM duckdb_tables() WHERE table_name = $1", params=[table]
        ).fetchall()[0][0]
        models: list[str] = []
        if is_there:
            query = f"SELECT DISTINCT model FROM {table} ORDER BY model"  # noqa: S608
            models = [str(row[0]) for row in connection.sql(query).fetchall()]
        if not models:
            raise DataError(
                f"prototypes by {strategy} need the table {table} of the index, and {self.uri} has none; "
                "let the index stage compute it, or draw uniform"
            )
        if len(models) > 1:
            raise DataError(
                f"{self.uri} has {table} of {len(models)} models ({', '.join(models)}), and prototypes by "
                f"{strategy} need one; build the index with one"
            )
        return models[0]

    def _require_known(self, ids: Ids, table: str) -> None:
        """Refuse rows that are of no sample, or two of one; tell of samples that have none."""
        fits = len(ids) > 0 and ids[0] >= 0 and ids[-1] < self.count and (np.diff(ids) > 0).all()
        if not fits:
            raise DataError(
                f"{len(ids)} rows of {table} of {self.uri} are not each of another of the {self.count} samples; "
                "run `--only index --force`"
            )
        if len(ids) < self.count:
            log.warning(
                "%d of %d samples have %s; others are not drawn", len(ids), self.count, table
            )

    def _require_enough(self, m: int, ids: Ids, what: str) -> None:
        if not 1 <= m <= len(ids):
            raise ConfigError(
                f"{m} prototypes cannot be drawn from {len(ids)} {what} of {self.uri}; "
                "set num_prototypes to between 2 and that number"
            )


def _read_features(
    connection: duckdb.DuckDBPyConnection, ids: Ids, model: str
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Return the features of samples, image and text side by side and each of unit length.

    Args:
        ids: ascending.
    Raises: DataError: if widths differ, or a feature is empty, zero or not finite.
    """
    connection.register("candidates", pa.table({"sample_id": ids}))
    rows = connection.sql(
        "SELECT sample_id, image_feature, text_feature FROM features SEMI JOIN candidates USING (sample_id) "
        "WHERE model = $1",
        params=[model],
    )
    features: npt.NDArray[np.float32] | None = None
    for batch in rows.to_arrow_reader(_ROWS_AT_ONCE):
        sides = [_unit_rows(batch.column(place), batch.column(0), model) for place in (1, 2)]
        part = np.concatenate(sides, axis=1)
        if features is None:
            features = np.empty((len(ids), part.shape[1]), dtype=np.float32)
        if part.shape[1] != features.shape[1]:
            raise DataError(
                f"features of {model} of sample {batch.column(0)[0]} have {part.shape[1]} numbers, of others "
                f"{features.shape[1]}; run `--only index --force`"
            )
        features[np.searchsorted(ids, batch.column(0).to_numpy())] = part
    assert features is not None, "candidates have features"
    return ids, features


def _unit_rows(column: Any, ids: Any, model: str) -> npt.NDArray[np.float32]:  # noqa: ANN401  # pyarrow's, untyped
    """Return one side's features of some rows as a matrix of unit rows."""
    lengths = column.value_lengths().fill_null(0).to_numpy()
    width = int(lengths.max())
    if (lengths != width).any():
        odd = int(np.argmin(lengths))
        raise DataError(
            f"a feature of {model} of sample {ids[odd]} has {lengths[odd]} numbers, others have {width}; "
            "run `--only index --force`"
        )
    rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), width)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    is_bad = ~(np.isfinite(norms) & (norms > 0))[:, 0]
    if is_bad.any():
        raise DataError(
            f"a feature of {model} of sample {ids[int(np.argmax(is_bad))]} is zero or not finite; "
            "run `--only index --force`"
        )
    return (rows / norms).astype(np.float32)
