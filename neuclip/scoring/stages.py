"""The two stages that compute something of images: score of acquired pairs, index of training samples.

The room of the index lies below this one, so its stage stands here, where the models are that make its features.
"""

from collections.abc import Collection
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from neuclip.curate.asked import IN_EVALUATION_SET
from neuclip.curate.files import SCORES
from neuclip.curate.scores import MODEL_SUFFIXES, ModelScore
from neuclip.index import config as index
from neuclip.index.config import IndexConfig
from neuclip.loading.set_inputs import fingerprint_sets
from neuclip.scoring.config import STAGE_VERSION, AskedScoring, check_asked
from neuclip.stages.keys import fingerprint
from neuclip.stages.loaded import Loaded
from neuclip.stages.manifest import PARTS
from neuclip.stages.stage import Erasures, Job, Stage, Trace, Views
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join

if TYPE_CHECKING:
    import duckdb

    from neuclip.stages.telling import Pair, Told

_OF_THE_INDEX = ("samples", "features", "clusters", "sample_statistics")


def _score(job: Job[AskedScoring], workspace: Workspace) -> Outcome:
    from neuclip.scoring.run import run_score

    return run_score(
        job.config,
        root=job.root,
        acquire_uri=job.above["acquire"],
        workspace=workspace,
        progress=job.progress,
        pool=job.pool,
        force=job.force,
    )


def _score_inputs(config: AskedScoring) -> dict[str, str]:
    """Return the fingerprints of models, and of evaluation sets: by name those that training is kept clean of."""
    inputs = {
        f"score {score.name}": fingerprint(score.model, MODEL_SUFFIXES)
        for score in config.scores
        if isinstance(score, ModelScore)
    }
    for reason, asked in groupby(config.sets, key=lambda one: one.reason):
        found = fingerprint_sets([one.uri for one in asked])
        is_named = reason == IN_EVALUATION_SET
        inputs |= {name if is_named else f"{reason} {name}": tag for name, tag in found.items()}
    return inputs


def _tell_of_scores(pair: "Pair", uri: str) -> "Told":
    from neuclip.scoring.story import tell

    return tell(pair, uri)


def _index(job: Job[IndexConfig], workspace: Workspace) -> Outcome:
    from neuclip.index.run import run_index
    from neuclip.scoring.sample_features import ShardEncoder

    features = job.config.features
    return run_index(
        job.config,
        shard_uri=job.above["shard"],
        caption_uri=job.above["caption"],
        text_encoder_uri=job.above.get("text_encoder"),
        root=job.root,
        encoder=None if features is None else Loaded(partial(ShardEncoder, features)),
        pool=job.pool,
        force=job.force,
        workspace=workspace,
        progress=job.progress,
    )


def _index_inputs(config: IndexConfig) -> dict[str, str]:
    if config.features is None:
        return {}
    return {"features model": fingerprint(config.features.model, MODEL_SUFFIXES)}


def _add_index_views(
    connection: "duckdb.DuckDBPyConnection", uri: str, mentioned: Collection[str]
) -> None:
    from neuclip.index.database import INDEX
    from neuclip.stages.committed import committed_file

    del mentioned  # the index is one file, which is opened once
    path = str(committed_file(uri, INDEX)).replace("'", "''")
    connection.execute(f"ATTACH '{path}' AS sample_index (READ_ONLY)")
    for view in _OF_THE_INDEX:
        connection.execute(f"CREATE VIEW {view} AS SELECT * FROM sample_index.{view}")  # noqa: S608


def _index_erasures(stage_uri: str, uids: Collection[str]) -> Erasures:
    from neuclip.index.erase import erase_side_part, find_side_parts

    return {
        (uri := join(stage_uri, PARTS, part)): partial(erase_side_part, uri, rows)
        for part, rows in find_side_parts(stage_uri, uids).items()
    }


def _tell_of_index(pair: "Pair", uri: str) -> "Told":
    from neuclip.index.story import tell

    return tell(pair, uri)


SCORE = Stage(
    name="score",
    version=STAGE_VERSION,
    purpose="Compute the columns that curate judges by.",
    run=_score,
    above=("acquire",),
    inputs=_score_inputs,
    has_progress=True,
    check=check_asked,
    trace=Trace(stays="numbers and features computed from the pairs", part_table=SCORES),
    tell=_tell_of_scores,
)
INDEX = Stage(
    name="index",
    version=index.STAGE_VERSION,
    purpose="Build the sample index.",
    run=_index,
    above=("caption", "text_encoder", "shard"),
    inputs=_index_inputs,
    fed_by="shard",
    trace=Trace(stays="uids, and features if the index has some", through="shard"),
    erasures=_index_erasures,
    views=Views(_OF_THE_INDEX, _add_index_views),
    tell=_tell_of_index,
)
