"""The pool: all acquired pairs, partition by partition, with every column that a rule may ask for."""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from neuclip.acquired.partitions import COLUMNS, ROWS, partition_folders, text_folders
from neuclip.acquired.texts import TEXTS, count_texts
from neuclip.curate.conditions import quoted
from neuclip.curate.files import SCORES
from neuclip.foundation.errors import ConfigError, IntegrityError, ShapeError, nearest
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import Manifest, read_manifest
from neuclip.storage.arrays import by_part
from neuclip.storage.files import exists
from neuclip.storage.uris import join, name_of, parent_of

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
        scores: columns made by the score stage; each table has exactly the rows of its partition.
    Raises: ConfigError: if two tables have a column of one name.
    """

    def __init__(self, acquire_uri: str, scores: Sequence[ScoreFolders] = ()) -> None:
        self.partitions: list[PoolPartition] = []
        self.counts: list[int] = []
        text_parts: list[Manifest] = []
        folders = zip(partition_folders(acquire_uri), text_folders(acquire_uri), strict=True)
        for number, (folder, texts) in enumerate(folders):
            key = name_of(folder)
            self.counts.append(read_manifest(folder).ledger.out)
            text_parts.append(read_manifest(texts))
            kept = join(acquire_uri, COLUMNS, f"{key}.parquet")
            tables = [join(texts, TEXTS), *([kept] if exists(kept) else [])]
            tables += [join(score.folders[number], SCORES) for score in scores if score.columns]
            self.partitions.append(PoolPartition(key, join(folder, ROWS), tables))
        self.sources = count_texts(text_parts)
        self.columns = self._columns()
        self._folders = {score.name: score.folders for score in scores}

    def relation(self, number: int) -> str:
        """Return the FROM clause of a partition: its pairs with `part`, `position` (of the row), `captions` and `alt`.

        `misplaced` is true for a pair whose row in a table beside is another pair's.
        """
        partition = self.partitions[number]
        rows = (
            f"(SELECT *, {number}::INTEGER AS part, file_row_number AS position "
            f"FROM read_parquet({_local(partition.rows)}, file_row_number = true))"
        )
        beside = "".join(
            f" POSITIONAL JOIN (SELECT * RENAME (uid AS uid_{place}) FROM read_parquet({_local(table)}))"
            for place, table in enumerate(partition.tables)
        )
        places = range(len(partition.tables))
        misplaced = " OR ".join(f"uid IS DISTINCT FROM uid_{place}" for place in places) or "false"
        return (
            f"(SELECT *, captions['alt'][1] AS alt, ({misplaced}) AS misplaced FROM {rows}{beside} "
            "WHERE status = 'success')"
        )

    def misplaced(self, number: int) -> IntegrityError:
        """Return the error of a partition with tables that do not stand row by row beside its rows."""
        partition = self.partitions[number]
        return IntegrityError(
            f"the uids of {' or '.join(partition.tables)} are not those of {partition.rows}, row by row; run "
            "`--only acquire --force` if it lies in acquire's folder, `--only score --force` if in that of score"
        )

    def ranges(
        self, connection: duckdb.DuckDBPyConnection, measures: Mapping[str, str]
    ) -> dict[str, tuple[float, float]]:
        """Return the least and the largest value of numbers in SQL; those without any value are left out."""
        found: dict[str, tuple[float, float]] = {}
        wanted = ", ".join(f"min({sql})::DOUBLE, max({sql})::DOUBLE" for sql in measures.values())
        for number in self.fetch_ahead() if measures else ():
            row = connection.execute(f"SELECT {wanted} FROM {self.relation(number)}").fetchall()[0]
            for name, least, most in zip(measures, row[::2], row[1::2], strict=True):
                if least is not None and math.isfinite(least) and math.isfinite(most):
                    seen = found.get(name, (least, most))
                    found[name] = min(seen[0], least), max(seen[1], most)
        return found

    def folders(self, score: str) -> Sequence[str]:
        """Return the folders of a score, one for each partition.

        Raises: ConfigError: if there is no such score.
        """
        if score not in self._folders:
            raise ConfigError(
                f"no score is called {score!r} in score.scores; there are {', '.join(self._folders) or 'none'}."
                f"{nearest(score, self._folders)}"
            )
        return self._folders[score]

    def features(
        self, score: str, parts: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float16]:
        """Return the image features of pairs by an embedding score, [n, D].

        Args:
            parts: for each pair the number of its partition.
            positions: for each pair its row there.
        Raises: ConfigError: if the score has no features. ShapeError: if their width is not that of the others.
        """
        gathered = np.empty((len(parts), 0), np.float16)
        for part, here in by_part(parts):
            features = self.features_of(score, part)
            if not gathered.shape[1]:
                gathered = np.empty((len(parts), features.shape[1]), np.float16)
            if features.shape[1] != gathered.shape[1]:
                raise ShapeError(
                    f"score {score!r} has features of {features.shape[1]} numbers in partition {part}, of "
                    f"{gathered.shape[1]} in others; run `--only score --force`"
                )
            gathered[here] = features[positions[here]]
        return gathered

    def features_of(self, score: str, part: int) -> npt.NDArray[np.float16]:
        """Return the image features of all rows of a partition, [rows, D]; zeros where there is no image.

        Raises: ConfigError: if the score is none of kind embedding.
        """
        uri = join(self.folders(score)[part], FEATURES)
        if not exists(uri):
            raise ConfigError(f"the score {score!r} is not of kind embedding: it has no features")
        return np.load(_committed(uri), mmap_mode="r")

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
            _committed(uri)

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
                            "another name in score.scores, or take the column out of acquire.keep_columns"
                        )
                    taken[name] = str(kind)
        return {**taken, "alt": "VARCHAR"}


def _local(uri: str) -> str:
    return quoted(str(_committed(uri)))


def _committed(uri: str) -> Path:
    """Return a local path of a table: of a folder of its own, or of the columns that acquire kept."""
    folder, name = parent_of(uri), name_of(uri)
    if name_of(folder) == COLUMNS:
        folder, name = parent_of(folder), f"{COLUMNS}/{name}"
    return committed_file(folder, name)
