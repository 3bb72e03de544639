"""A score stage committed for a section of curate, as a recipe with this section would have it."""

from collections.abc import Sequence
from pathlib import Path

from neuclip.curate.asked import asked_scores, asked_sets
from neuclip.curate.config import CurateConfig
from neuclip.curate.scores import ScoreConfig
from neuclip.foundation.progress import silent
from neuclip.scoring.config import AskedScoring
from neuclip.scoring.run import run_score
from neuclip.stages.keys import digest
from neuclip.stages.workspace import StageIdentity, commit_stage
from neuclip.storage.uris import name_of


def commit_scored(
    root: Path | str, acquire_uri: str, config: CurateConfig, scores: Sequence[ScoreConfig] = ()
) -> str:
    """Score what a section of curate asks for; return the stage's URI."""
    asked = asked_scores(config, scores)
    section = AskedScoring(scores=asked, sets=asked_sets(config, asked))
    key = digest([name_of(acquire_uri), section.model_dump(mode="json")])
    identity = StageIdentity("score", 1, key, {}, {}, str(root))
    commit_stage(
        identity,
        lambda workspace: run_score(
            section,
            root=str(root),
            acquire_uri=acquire_uri,
            workspace=workspace,
            progress=silent,
        ),
    )
    return identity.uri
