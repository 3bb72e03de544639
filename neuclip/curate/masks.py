"""What rules decide by looking at other images: at those of evaluation sets, or at all of the pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.acquired.partitions import ROWS, partition_folders, texts_paths
from neuclip.curate.asked import IN_EVALUATION_SET
from neuclip.curate.config import CurateConfig, Decontaminate
from neuclip.curate.contamination import EvaluationSamples
from neuclip.curate.judge import Mask
from neuclip.curate.near_images import Descriptors, read_descriptors
from neuclip.curate.pool import FEATURES, ScoreFolders
from neuclip.curate.rules import ImageCluster, reason_of
from neuclip.curate.scored import ScoreReader
from neuclip.curate.semantic import image_cluster
from neuclip.stages.committed import committed_file
from neuclip.storage.arrays import MappedFiles
from neuclip.storage.tables import ArrowTable, connect

_Drops = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Prepared:
    """What `run_curate` takes: score columns, and masks by reason."""

    scores: list[ScoreFolders]
    masks: dict[str, Mask]
    contamination: "Contamination | None" = None


def prepare(
    config: CurateConfig, *, acquire_uri: str, score_uri: str, seed: int, scratch: Path
) -> Prepared:
    """Find the scores of the pool and of the evaluation sets.

    Args:
        scratch: folder that joins may spill to.
    Raises: ConfigError: if a rule asks for a score that was not made. IntegrityError: if the scores are not those of
        acquire's partitions.
    """
    found = ScoreReader(score_uri, acquire_uri)
    masks: dict[str, Mask] = {}
    contamination = None
    if config.decontaminate is not None and config.decontaminate.sets:
        contamination = Contamination(config.decontaminate, found, acquire_uri, scratch)
        masks[IN_EVALUATION_SET] = contamination
    for rule in config.rules:
        if isinstance(rule, ImageCluster):
            reason = reason_of(rule)
            pool = found.folders(rule.score, asked_by=f"rule {reason}")
            (target,) = found.sets(reason)
            features = np.load(committed_file(target.scores[rule.score], FEATURES))
            masks[reason] = _Cluster(rule, pool.folders, features, seed)
    return Prepared(found.columns(), masks, contamination)


class Contamination:
    """Finds the pairs of a partition that are in the evaluation sets, and remembers what they match."""

    def __init__(
        self, config: Decontaminate, found: ScoreReader, acquire_uri: str, scratch: Path
    ) -> None:
        self._config, self._scratch = config, scratch
        self._partitions = partition_folders(acquire_uri)
        self._texts = [str(path) for path in texts_paths(acquire_uri)]
        self._phash = found.first_of_kind("phash") if config.images else None
        self._embedding = None
        if config.embedding is not None:
            self._embedding = found.folders(
                config.embedding.score, asked_by="curate.decontaminate.embedding.score"
            )
        self._samples = EvaluationSamples(
            found.sets(IN_EVALUATION_SET),
            phash=self._phash.name if self._phash is not None else None,
            embedding=self._embedding.name if self._embedding is not None else None,
            captions=config.captions,
        )
        self._matches: dict[int, ArrowTable] = {}

    def __call__(self, part: int, pairs: ArrowTable) -> _Drops:
        """Tell which pairs of a partition match an evaluation sample."""
        embedding = self._config.embedding
        matches = self._samples.matches(
            descriptors=self._descriptors(part),
            features=self._features(part),
            captions=self._captions(part) if self._config.captions else None,
            min_cosine=embedding.min_cosine if embedding is not None else 1.0,
            scratch=self._scratch,
        )
        positions = pairs["position"].to_numpy()
        rows = matches["row"].to_numpy()
        found = np.isin(rows, positions)
        uids = pairs["uid"].take(np.searchsorted(positions, rows[found]))
        self._matches[part] = matches.filter(found).set_column(0, "uid", uids)
        return np.isin(positions, rows)

    def table(self) -> ArrowTable:
        """Return the pairs found so far beside what they match: uid, set, sample, by, distance."""
        return pa.concat_tables(self._matches[part] for part in sorted(self._matches))

    def _descriptors(self, part: int) -> Descriptors | None:
        if self._phash is None:
            return None
        count = len(self._uids(part))
        folder = self._phash.folders[part]
        return read_descriptors([folder], np.zeros(count, np.int64), np.arange(count))

    def _features(self, part: int) -> npt.NDArray[np.float16] | None:
        if self._embedding is None:
            return None
        path = committed_file(self._embedding.folders[part], FEATURES)
        return np.load(path, mmap_mode="r")

    def _captions(self, part: int) -> list[str | None]:
        return self._column(self._texts[part], "captions['alt'][1]")

    def _uids(self, part: int) -> list[str | None]:
        return self._column(str(committed_file(self._partitions[part], ROWS)), "uid")

    def _column(self, path: str, sql: str) -> list[str | None]:
        query = f"SELECT {sql} AS value FROM read_parquet($path)"  # a constant of this file
        with connect(self._scratch) as connection:
            table = connection.sql(query, params={"path": path}).to_arrow_table()
        return table["value"].to_pylist()


class _Cluster:
    """Drops images of clusters that no target image is nearest to; clusters are of the whole pool."""

    def __init__(
        self,
        rule: ImageCluster,
        folders: Sequence[str],
        targets: npt.NDArray[np.float16],
        seed: int,
    ) -> None:
        self._rule, self._folders, self._targets, self._seed = rule, folders, targets, seed

    @cached_property
    def _kept(self) -> list[_Drops]:
        features = MappedFiles([committed_file(folder, FEATURES) for folder in self._folders])
        kept = image_cluster(features, self._targets, clusters=self._rule.clusters, seed=self._seed)
        return np.split(kept, np.cumsum([len(rows) for rows in features])[:-1])

    def __call__(self, part: int, pairs: ArrowTable) -> _Drops:
        return ~self._kept[part][pairs["position"].to_numpy()]
