"""The shard stage."""

from typing import TYPE_CHECKING

from neuclip.shards.config import STAGE_VERSION, ShardConfig
from neuclip.stages.stage import Job, Stage, Trace
from neuclip.stages.workspace import Outcome, Workspace

if TYPE_CHECKING:
    from neuclip.stages.telling import Pair, Told

MEMBERS = "members.parquet"


def _run(job: Job[ShardConfig], workspace: Workspace) -> Outcome:
    from neuclip.shards.run import run_shard

    return run_shard(
        job.config,
        seed=job.seed,
        root=job.root,
        acquire_uri=job.above["acquire"],
        caption_uri=job.above["caption"],
        workspace=workspace,
        progress=job.progress,
        force=job.force,
    )


def _tell(pair: "Pair", uri: str) -> "Told":
    from neuclip.shards.story import tell

    return tell(pair, uri)


SHARD = Stage(
    name="shard",
    version=STAGE_VERSION,
    purpose="Pack the kept pairs into training shards.",
    run=_run,
    above=("acquire", "caption"),
    fed_by="caption",
    is_seeded=True,
    trace=Trace(stays="nothing: the members were erased", table=MEMBERS),
    tell=_tell,
)
