"""Scores of all partitions: each computed once, kept under the root, and found again by every later recipe."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from neuclip.acquired.partitions import partition_folders, text_folders
from neuclip.acquired.texts import count_texts, require_source, source_digest
from neuclip.curate.pool import ScoreFolders
from neuclip.curate.scores import ScoreConfig, source_of
from neuclip.foundation.progress import Progress
from neuclip.scoring.pairs import read_partition
from neuclip.scoring.part import commit_scores, part_identity
from neuclip.scoring.scorer import Scorer
from neuclip.scoring.scorers import make_scorer
from neuclip.stages.ledger import Ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.manifest import Manifest, read_manifest
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import name_of


@dataclass(frozen=True)
class Acquired:
    """Where a partition and its texts lie."""

    uri: str
    texts_uri: str


@dataclass(frozen=True)
class ScoreColumns(ScoreFolders):
    """Where the columns of one score lie, and what they were made with."""

    record: dict[str, Any]
    """Model hash, resize, precision, and the rows without a value by reason."""
    ledgers: tuple[Ledger, ...]
    """Of its parts: in: rows; out: rows with a value."""


def run_scores(
    scores: Sequence[ScoreConfig],
    *,
    root: str,
    acquire_uri: str,
    progress: Progress,
    pool: Pool = LOCAL,
    force: bool = False,
) -> list[ScoreColumns]:
    """Compute what is missing of every score for every partition, and say where all of it lies.

    A folder holds scores.parquet with one row for each row of the partition's rows.parquet, in its order: `uid`
    and the score's columns, null where there is no value; an embedding's features lie beside it as .npy.

    Raises: CheckpointError: for a model folder that cannot be read. NumericsError: for a model with broken weights.
    """
    folders = zip(partition_folders(acquire_uri), text_folders(acquire_uri), strict=True)
    partitions = [Acquired(*uris) for uris in folders]
    sources = count_texts(read_manifest(partition.texts_uri) for partition in partitions)
    for score in scores:
        if (source := source_of(score)) is not None:
            require_source(source, sources, place=f"score {score.name}")
    parts = {score.name: _parts(score, partitions, root) for score in scores}
    every = [part for of_score in parts.values() for part in of_score]
    manifests = iter(do_parts(every, pool=pool, progress=progress, force=force))
    return [_columns(score, parts[score.name], manifests) for score in scores]


def _parts(score: ScoreConfig, partitions: Sequence[Acquired], root: str) -> list[Part]:
    scorer, source = Loaded(partial(make_scorer, score)), source_of(score)
    model = scorer.here().model
    return [
        Part(
            part_identity(score.keyed(), _inputs(partition, model, source), root),
            partial(_score_partition, scorer, source, partition),
            note=f"{score.name}: partition {number + 1} of {len(partitions)}",
        )
        for number, partition in enumerate(partitions)
    ]


def _inputs(partition: Acquired, model: str, source: str | None) -> dict[str, str]:
    """Return what a score of a partition is made of; one that looks at images alone does not depend on texts."""
    inputs = {"model": model, "partition": name_of(partition.uri)}
    if source is not None:
        inputs["texts"] = source_digest(read_manifest(partition.texts_uri), source)
    return inputs


def _score_partition(
    scorer: Loaded[Scorer],
    source: str | None,
    acquired: Acquired,
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    del progress
    partition = read_partition(acquired.uri, acquired.texts_uri, source)
    scored = scorer.here().score(partition)
    record = scorer.here().record()
    return commit_scores(partition, scored, record, workspace, where=acquired.uri)


def _columns(
    score: ScoreConfig, parts: Sequence[Part], manifests: Iterator[Manifest]
) -> ScoreColumns:
    """Take the manifests of a score's parts, and add up the counts; what is known of the model is the same in all."""
    done = list(islice(manifests, len(parts)))
    without: Counter[str] = Counter()
    for manifest in done:
        without.update(manifest.ledger.dropped)
    record = done[0].summary if done else {}
    return ScoreColumns(
        score.name,
        score.columns(),
        tuple(part.identity.uri for part in parts),
        {**record, "without_value": dict(without)},
        tuple(manifest.ledger for manifest in done),
    )
