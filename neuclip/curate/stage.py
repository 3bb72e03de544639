"""The curate stage."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from neuclip.curate.config import STAGE_VERSION, CurateConfig, files_of
from neuclip.curate.files import VERDICTS
from neuclip.stages.keys import fingerprint
from neuclip.stages.stage import Job, Stage, Trace, Views
from neuclip.stages.workspace import Outcome, Workspace

if TYPE_CHECKING:
    import duckdb

    from neuclip.stages.telling import Pair, Told


def _run(job: Job[CurateConfig], workspace: Workspace) -> Outcome:
    from neuclip.curate.masks import prepare
    from neuclip.curate.run import run_curate

    prepared = prepare(
        job.config,
        acquire_uri=job.above["acquire"],
        score_uri=job.above["score"],
        seed=job.seed,
        scratch=workspace.scratch,
    )
    return run_curate(
        job.config,
        seed=job.seed,
        acquire_uri=job.above["acquire"],
        scores=prepared.scores,
        masks=prepared.masks,
        contamination=prepared.contamination,
        workspace=workspace,
        progress=job.progress,
    )


def _inputs(config: CurateConfig) -> dict[str, str]:
    """Return the fingerprints of the files that rules name; the evaluation sets are inputs of the score stage."""
    return {
        f"{rule.kind} {uri}": fingerprint(uri, suffixes)
        for rule in config.rules
        for uri, suffixes in files_of(rule)
    }


def _add_views(
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


def _tell(pair: "Pair", uri: str) -> "Told":
    from neuclip.curate.story import tell

    return tell(pair, uri)


CURATE = Stage(
    name="curate",
    version=STAGE_VERSION,
    purpose="Judge the acquired pairs.",
    run=_run,
    above=("acquire", "score"),
    inputs=_inputs,
    fed_by="acquire",
    is_seeded=True,
    trace=Trace(stays="verdicts, which name uids alone", table=VERDICTS),
    views=Views(("verdicts", "rules"), _add_views),
    tell=_tell,
)
