"""The score stage: columns of the pool and of evaluation sets, for curate to judge by."""

from collections.abc import Sequence
from itertools import groupby

from neuclip.acquired.partitions import partition_folders
from neuclip.curate.asked import AskedSet
from neuclip.curate.scored import SCORED, Scored, ScoredColumns, ScoredSet
from neuclip.curate.scores import ScoreConfig
from neuclip.foundation.progress import Progress
from neuclip.scoring.config import AskedScoring, check_asked
from neuclip.scoring.evaluation_images import score_evaluation_sets
from neuclip.scoring.pool_scores import ScoreColumns, run_scores
from neuclip.stages.ledger import add_ledgers
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import name_of


def run_score(
    config: AskedScoring,
    *,
    root: str,
    acquire_uri: str,
    workspace: Workspace,
    progress: Progress,
    pool: Pool = LOCAL,
    force: bool = False,
) -> Outcome:
    """Compute the scores that are missing, part by part, and write scored.json: which part holds what.

    The ledger counts values, one for each score and row of acquire: `in` all of them, `out` those that are there, and
    the others by the reason why a row has none. What is computed of evaluation sets is not in it.

    Args:
        force: compute what is there again too.
    Raises: ConfigError: if a score is asked for that the recipe does not have. CheckpointError, NumericsError: for a
        model that cannot score. DataError: for an evaluation set that cannot be read.
    """
    check_asked(config)
    found = run_scores(
        config.scores,
        root=root,
        acquire_uri=acquire_uri,
        progress=progress,
        pool=pool,
        force=force,
    )
    sets: list[ScoredSet] = []
    for reason, asked in groupby(config.sets, key=lambda one: one.reason):
        sets += _score_sets(
            reason, list(asked), config.scores, root=root, progress=progress, pool=pool, force=force
        )
    scored = Scored(
        partitions=tuple(map(name_of, partition_folders(acquire_uri))),
        scores=tuple(_told(*pair) for pair in zip(config.scores, found, strict=True)),
        sets=tuple(sets),
    )
    (workspace.output / SCORED).write_text(scored.model_dump_json(indent=1), encoding="utf-8")
    parts = [key for score in scored.scores for key in score.parts]
    parts += [key for one in sets for key in (one.samples, *one.scores.values())]
    ledger = add_ledgers(ledger for score in found for ledger in score.ledgers)
    progress("score", done=len(parts), total=len(parts), note=f"{len(found)} scores")
    summary = {"scores": {score.name: score.record for score in found}, "sets": len(sets)}
    return Outcome(ledger, summary, parts=list(dict.fromkeys(parts)))


def _score_sets(
    reason: str,
    asked: Sequence[AskedSet],
    scores: Sequence[ScoreConfig],
    *,
    root: str,
    progress: Progress,
    pool: Pool,
    force: bool,
) -> list[ScoredSet]:
    """Describe the evaluation sets by which pairs are dropped for one reason; they all take the same scores."""
    wanted = [score for score in scores if score.name in asked[0].scores]
    uris = [one.uri for one in asked]
    found = score_evaluation_sets(
        uris, wanted, root=root, progress=progress, pool=pool, force=force
    )
    return [
        ScoredSet(
            name=folders.set,
            reason=reason,
            samples=name_of(folders.samples),
            scores={name: name_of(uri) for name, uri in folders.scores.items()},
        )
        for folders in found
    ]


def _told(score: ScoreConfig, found: ScoreColumns) -> ScoredColumns:
    keys = tuple(map(name_of, found.folders))
    return ScoredColumns(name=score.name, kind=score.kind, columns=score.columns(), parts=keys)
