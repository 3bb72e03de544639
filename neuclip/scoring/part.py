"""A part of the score stage: one score of the pairs of a partition, or of the samples of an evaluation set."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.curate.files import SCORES
from neuclip.curate.scores import SCORE_VERSION
from neuclip.foundation.errors import IntegrityError
from neuclip.scoring.pairs import Partition
from neuclip.scoring.scorer import Scored
from neuclip.stages.keys import stage_key
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace
from neuclip.storage.tables import ArrowTable

STAGE = "score"


def part_identity(section: dict[str, Any], inputs: dict[str, str], root: str) -> StageIdentity:
    """Return the identity of a part: it is found again by every later recipe with the same settings and inputs."""
    key = stage_key(STAGE, SCORE_VERSION, section, inputs)
    return StageIdentity(STAGE, SCORE_VERSION, key, section, inputs, root, part=True)


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
