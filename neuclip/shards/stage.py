"""The shard stage."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from neuclip.shards.config import STAGE_VERSION, ShardConfig
from neuclip.shards.files import MEMBERS
from neuclip.stages.manifest import PARTS
from neuclip.stages.stage import Erasures, Job, Stage, Trace
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join

if TYPE_CHECKING:
    from neuclip.stages.telling import Pair, Told


def _run(job: Job[ShardConfig], workspace: Workspace) -> Outcome:
    from neuclip.shards.run import run_shard

    return run_shard(
        job.config,
        seed=job.seed,
        root=job.root,
        acquire_uri=job.above["acquire"],
        curate_uri=job.above["curate"],
        workspace=workspace,
        progress=job.progress,
        pool=job.pool,
        force=job.force,
    )


def _erasures(stage_uri: str, uids: Collection[str]) -> Erasures:
    from neuclip.shards.erase import erase_from_shards, find_shards

    return {
        (uri := join(stage_uri, PARTS, part)): partial(erase_from_shards, uri, tars)
        for part, tars in find_shards(stage_uri, uids).items()
    }


def _tell(pair: "Pair", uri: str) -> "Told":
    from neuclip.shards.story import tell

    return tell(pair, uri)


SHARD = Stage(
    name="shard",
    version=STAGE_VERSION,
    purpose="Pack the kept pairs into training shards.",
    run=_run,
    above=("acquire", "curate"),
    fed_by="curate",
    is_seeded=True,
    trace=Trace(stays="nothing: the members were erased", table=MEMBERS),
    erasures=_erasures,
    tell=_tell,
)
