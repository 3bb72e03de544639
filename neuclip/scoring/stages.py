"""The two stages that compute something of images before they do their own work: curate its scores, index features."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from neuclip.curate import config as curate
from neuclip.curate.config import CurateConfig
from neuclip.curate.files import VERDICTS
from neuclip.curate.scores import ModelScore
from neuclip.index import config as index
from neuclip.index.config import IndexConfig
from neuclip.loading.set_inputs import fingerprint_sets
from neuclip.stages.keys import fingerprint
from neuclip.stages.manifest import PARTS
from neuclip.stages.stage import Erasures, Job, Stage, Trace, Views
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join

if TYPE_CHECKING:
    import duckdb

    from neuclip.stages.telling import Pair, Told

_OF_THE_INDEX = ("samples", "features", "clusters", "signals")


def _curate(job: Job[CurateConfig], workspace: Workspace) -> Outcome:
    from neuclip.curate.run import run_curate
    from neuclip.scoring.for_curate import prepare

    acquire_uri = job.above["acquire"]
    prepared = prepare(
        job.config,
        root=job.root,
        acquire_uri=acquire_uri,
        seed=job.seed,
        scratch=workspace.scratch,
        progress=job.progress,
    )
    return run_curate(
        job.config,
        seed=job.seed,
        acquire_uri=acquire_uri,
        scores=prepared.scores,
        masks=prepared.masks,
        contamination=prepared.contamination,
        workspace=workspace,
        progress=job.progress,
    )


def _curate_inputs(config: CurateConfig) -> dict[str, str]:
    """Return the fingerprints of the files and models that rules and scores name, and of the sets kept out."""
    inputs = {
        f"{rule.kind} {uri}": fingerprint(uri, suffixes)
        for rule in config.rules
        for uri, suffixes in curate.files_of(rule)
    }
    inputs |= {
        f"score {score.name}": fingerprint(score.model, curate.MODEL_SUFFIXES)
        for score in config.scores
        if isinstance(score, ModelScore)
    }
    return inputs | fingerprint_sets(config.kept_out_sets)


def _add_curate_views(
    connection: "duckdb.DuckDBPyConnection", uri: str, mentioned: Collection[str]
) -> None:
    import pyarrow as pa

    from neuclip.stages.manifest import read_manifest
    from neuclip.stages.views import add_file, add_table

    if "verdicts" in mentioned:
        add_file(connection, "verdicts", uri, VERDICTS)
    if "rules" in mentioned:
        reasons = read_manifest(uri).summary["rules"]
        add_table(connection, "rules", pa.table({"bit": range(len(reasons)), "reason": reasons}))


def _index(job: Job[IndexConfig], workspace: Workspace) -> Outcome:
    from neuclip.index.run import run_index
    from neuclip.scoring.sample_features import ShardEncoder

    features = job.config.features
    return run_index(
        job.config,
        shard_uri=job.above["shard"],
        caption_uri=job.above["caption"],
        root=job.root,
        encoder=None if features is None else ShardEncoder(features),
        force=job.force,
        workspace=workspace,
        progress=job.progress,
    )


def _index_inputs(config: IndexConfig) -> dict[str, str]:
    if config.features is None:
        return {}
    return {"features model": fingerprint(config.features.model, curate.MODEL_SUFFIXES)}


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
        part: partial(erase_side_part, join(stage_uri, PARTS, part), rows)
        for part, rows in find_side_parts(stage_uri, uids).items()
    }


def _tell_of_curate(pair: "Pair", uri: str) -> "Told":
    from neuclip.curate.story import tell

    return tell(pair, uri)


def _tell_of_index(pair: "Pair", uri: str) -> "Told":
    from neuclip.index.story import tell

    return tell(pair, uri)


CURATE = Stage(
    name="curate",
    version=curate.STAGE_VERSION,
    purpose="Judge the acquired pairs.",
    run=_curate,
    above=("acquire",),
    inputs=_curate_inputs,
    fed_by="acquire",
    is_seeded=True,
    trace=Trace(stays="verdicts, which name uids alone", table=VERDICTS),
    views=Views(("verdicts", "rules"), _add_curate_views),
    tell=_tell_of_curate,
)
INDEX = Stage(
    name="index",
    version=index.STAGE_VERSION,
    purpose="Build the sample index.",
    run=_index,
    above=("caption", "shard"),
    inputs=_index_inputs,
    fed_by="shard",
    trace=Trace(stays="uids, and features if the index has some", through="shard"),
    erasures=_index_erasures,
    views=Views(_OF_THE_INDEX, _add_index_views),
    tell=_tell_of_index,
)
