"""What curate is given besides the pairs: score columns, and what rules decide by looking at other data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from neuclip.curate.config import CurateConfig
from neuclip.curate.pool import ScoreFolders
from neuclip.foundation.progress import Progress
from neuclip.scoring.run import run_scores

Mask = Callable[[int, Any], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Prepared:
    """Score columns, masks of rules by reason, and what is recorded of the scores."""

    scores: list[ScoreFolders]
    masks: Mapping[str, Mask] = field(default_factory=dict[str, Mask])
    records: Mapping[str, Any] = field(default_factory=dict[str, Any])


def prepare(
    config: CurateConfig,
    *,
    sets: Sequence[str],
    root: str,
    acquire_uri: str,
    seed: int,
    progress: Progress,
) -> Prepared:
    """Compute the scores that are missing, and look for evaluation and target images in the pool.

    Args:
        sets: evaluation sets whose pairs are to be found.
    """
    del seed
    wanted = config.needed_scores(has_evaluation_sets=bool(sets))
    scores = run_scores(wanted, root=root, acquire_uri=acquire_uri, progress=progress)
    return Prepared(
        scores=[ScoreFolders(score.name, score.columns, score.folders) for score in scores],
        records={score.name: score.record for score in scores},
    )
