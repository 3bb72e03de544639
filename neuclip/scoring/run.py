"""Scores of all partitions: each computed once, kept under the root, and found again by every later recipe."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.raw import partition_folders, text_folders
from neuclip.acquire.texts import count_texts, require_source, source_digest
from neuclip.curate.pool import SCORES, ScoreFolders
from neuclip.curate.scores import (
    SCORE_VERSION,
    ClipScore,
    Embedding,
    Language,
    PHash,
    ScoreConfig,
    score_settings,
    source_of,
)
from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.progress import Progress
from neuclip.scoring.clip import ClipScorer, EmbeddingScorer
from neuclip.scoring.language import LanguageScorer
from neuclip.scoring.pairs import Partition, read_partition
from neuclip.scoring.phash import PHashScorer
from neuclip.scoring.scorer import Scored, Scorer
from neuclip.scoring.tmars import TMarsScorer
from neuclip.stages.keys import stage_key
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.tables import ArrowTable
from neuclip.storage.uris import name_of

STAGE = "score"


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


def run_scores(
    scores: Sequence[ScoreConfig], *, root: str, acquire_uri: str, progress: Progress
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
    found = [
        _run_score(score, partitions, root=root, progress=progress, done=done, total=len(scores))
        for done, score in enumerate(scores)
    ]
    total = len(scores) * len(partitions)
    progress(STAGE, done=total, total=total, note=f"{len(scores)} scores")
    return found


def _run_score(
    score: ScoreConfig,
    partitions: Sequence[Acquired],
    *,
    root: str,
    progress: Progress,
    done: int,
    total: int,
) -> ScoreColumns:
    scorer = make_scorer(score)
    folders: list[str] = []
    records: list[dict[str, Any]] = []
    for number, partition in enumerate(partitions):
        progress(
            STAGE,
            done=done * len(partitions) + number,
            total=total * len(partitions),
            note=f"{score.name}: partition {number + 1} of {len(partitions)}",
        )
        identity = _identity(score, scorer.model, partition, root)
        manifest, _ = commit_stage(
            identity,
            lambda workspace, partition=partition: _score_partition(
                scorer, source_of(score), partition, workspace
            ),
        )
        folders.append(identity.uri)
        records.append({**manifest.summary, "without_value": manifest.ledger.dropped})
    return ScoreColumns(score.name, score.columns(), tuple(folders), _together(records))


def make_scorer(score: ScoreConfig) -> Scorer:
    """Return the scorer that a recipe asks for."""
    match score:
        case PHash():
            return PHashScorer(score)
        case Language():
            return LanguageScorer(score)
        case ClipScore():
            return ClipScorer(score)
        case Embedding():
            return EmbeddingScorer(score)
        case _:
            return TMarsScorer(score)


def _identity(score: ScoreConfig, model: str, partition: Acquired, root: str) -> StageIdentity:
    """Return the identity of a score of a partition; one that looks at images alone does not depend on texts."""
    section = score_settings(score)
    inputs = {"model": model, "partition": name_of(partition.uri)}
    if (source := source_of(score)) is not None:
        inputs["texts"] = source_digest(read_manifest(partition.texts_uri), source)
    key = stage_key(STAGE, SCORE_VERSION, section, inputs)
    return StageIdentity(STAGE, SCORE_VERSION, key, section, inputs, root, part=True)


def _score_partition(
    scorer: Scorer, source: str | None, acquired: Acquired, workspace: Workspace
) -> Outcome:
    partition = read_partition(acquired.uri, acquired.texts_uri, source)
    scored = scorer.score(partition)
    return commit_scores(partition, scored, scorer.record(), workspace, where=acquired.uri)


def commit_scores(
    partition: Partition,
    scored: Scored,
    record: dict[str, Any],
    workspace: Workspace,
    *,
    where: str,
) -> Outcome:
    """Write scores.parquet and the arrays beside it; a row without a value is told by its reason in the ledger."""
    pq.write_table(_table(partition, scored, where), workspace.output / SCORES, compression="zstd")
    for name, array in scored.arrays.items():
        np.save(workspace.output / name, array)
    dropped = Counter(reason for reason in scored.reasons if reason is not None)
    ledger = make_ledger(len(scored.reasons), scored.reasons.count(None), dict(dropped))
    return Outcome(ledger=ledger, summary=record)


def _table(partition: Partition, scored: Scored, where: str) -> ArrowTable:
    """Put the uids before the columns; every row of the partition must have its place in all of them."""
    uids = pa.array([pair.uid for pair in partition.pairs], pa.string())
    lengths = {len(scored.reasons), *map(len, scored.columns.values())}
    lengths |= {len(array) for array in scored.arrays.values()}
    if lengths != {len(uids)}:
        raise IntegrityError(
            f"a score has {sorted(lengths)} values for the {len(uids)} rows of {where}; please report this"
        )
    return pa.table({"uid": uids, **scored.columns})


def _together(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the counts of partitions; what was recorded of the model is that of the first."""
    without: Counter[str] = Counter()
    for record in records:
        without.update(record["without_value"])
    first = records[0] if records else {}
    return {**first, "without_value": dict(without)}
