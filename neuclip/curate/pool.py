"""The pool: all acquired pairs, partition by partition, with every column that a rule may ask for."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from neuclip.acquire.raw import COLUMNS, ROWS, partition_folders
from neuclip.curate.conditions import quoted
from neuclip.foundation.errors import ConfigError, IntegrityError, nearest
from neuclip.stages.manifest import read_manifest, verify_sizes
from neuclip.storage.cache import local_copy
from neuclip.storage.files import exists
from neuclip.storage.tables import ArrowColumn
from neuclip.storage.uris import join, name_of

SCORES = "scores.parquet"
FEATURES = "image_features.npy"
_AHEAD = 2


@dataclass(frozen=True)
class ScoreFolders:
    """Where a score lies: one committed folder for each partition of the pool, in order, row by row beside it."""

    name: str
    columns: Sequence[str]
    """Columns of scores.parquet; none for an embedding, whose features lie in image_features.npy."""
    folders: Sequence[str]


@dataclass(frozen=True)
class PoolPartition:
    """The files of one partition; `tables` stand row by row beside `rows`."""

    key: str
    rows: str
    tables: list[str]


class Pool:
    """Reads the acquired pairs: rows of status `success`, in the order of the input.

    Args:
        acquire_uri: committed acquire stage.
        scores: columns made by curate's scores; each table has exactly the rows of its partition.
    Raises: ConfigError: if two tables have a column of one name.
    """

    def __init__(self, acquire_uri: str, scores: Sequence[ScoreFolders] = ()) -> None:
        self.partitions: list[PoolPartition] = []
        self.counts: list[int] = []
        verify_sizes(acquire_uri, read_manifest(acquire_uri))
        for number, folder in enumerate(partition_folders(acquire_uri)):
            key = name_of(folder)
            self.counts.append(read_manifest(folder).ledger.out)
            kept = join(acquire_uri, COLUMNS, f"{key}.parquet")
            tables = [kept] if exists(kept) else []
            tables += [join(score.folders[number], SCORES) for score in scores if score.columns]
            self.partitions.append(PoolPartition(key, join(folder, ROWS), tables))
        self.columns = self._columns()
        self._features = {score.name: score.folders for score in scores if not score.columns}

    def relation(self, number: int) -> str:
        """Return the FROM clause of a partition: its pairs with `part`, `position` (of the row) and `alt`."""
        partition = self.partitions[number]
        rows = (
            f"(SELECT *, captions['alt'][1] AS alt, {number}::INTEGER AS part, file_row_number AS position "
            f"FROM read_parquet({_local(partition.rows)}, file_row_number = true))"
        )
        beside = [
            f" POSITIONAL JOIN (SELECT * EXCLUDE (uid) FROM read_parquet({_local(table)}))"
            for table in partition.tables
        ]
        return f"(SELECT * FROM {rows}{''.join(beside)} WHERE status = 'success')"

    def features(self, score: str, number: int) -> npt.NDArray[np.float16]:
        """Return the image features of a partition by an embedding score, [rows, D], a row for each of its table.

        Raises: ConfigError: if there is no such score.
        """
        if score not in self._features:
            raise ConfigError(
                f"no score of kind embedding is called {score!r} in curate.scores; there are "
                f"{', '.join(self._features) or 'none'}.{nearest(score, self._features)}"
            )
        return np.load(local_copy(join(self._features[score][number], FEATURES)), mmap_mode="r")

    def check(self, number: int) -> None:
        """Make sure that the tables of a partition stand row by row beside its rows.

        Raises: IntegrityError: naming the table.
        """
        partition = self.partitions[number]
        if not partition.tables:
            return
        uids = _uids(partition.rows)
        for table in partition.tables:
            if not uids.equals(_uids(table)):
                raise IntegrityError(
                    f"the uids of {table} are not those of {partition.rows}, row by row; run `--only acquire --force` "
                    "if it lies in acquire's folder, else remove the folder it lies in and run again"
                )

    def fetch_ahead(self) -> Iterator[int]:
        """Yield the numbers of all partitions in order; files of object storage are fetched two ahead."""
        with ThreadPoolExecutor(_AHEAD) as threads:
            coming = [
                threads.submit(self._fetch, n) for n in range(min(_AHEAD, len(self.partitions)))
            ]
            for number in range(len(self.partitions)):
                coming[number].result()
                if number + _AHEAD < len(self.partitions):
                    coming.append(threads.submit(self._fetch, number + _AHEAD))
                yield number

    def _fetch(self, number: int) -> None:
        partition = self.partitions[number]
        for uri in (partition.rows, *partition.tables):
            local_copy(uri)

    def _columns(self) -> Mapping[str, str]:
        """Return name -> SQL type of all columns of a pair, as the first partition has them."""
        if not self.partitions:
            return {}
        partition = self.partitions[0]
        taken: dict[str, str] = {}
        with duckdb.connect() as connection:
            for table in (partition.rows, *partition.tables):
                found = connection.sql(f"SELECT * FROM read_parquet({_local(table)})")
                for name, kind in zip(found.columns, found.types, strict=True):
                    if name == "uid" and table is not partition.rows:
                        continue
                    if name in taken or name in ("alt", "part", "position"):
                        raise ConfigError(
                            f"two tables of a pair have a column {name!r}, the later one {table}; give the score "
                            "another name in curate.scores, or take the column out of acquire.keep_columns"
                        )
                    taken[name] = str(kind)
        return {**taken, "alt": "VARCHAR"}


def _uids(uri: str) -> ArrowColumn:
    return pq.read_table(local_copy(uri), columns=["uid"])["uid"].cast("string")


def _local(uri: str) -> str:
    return quoted(str(local_copy(uri)))
