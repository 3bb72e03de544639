"""The select stage."""

from neuclip.selection.config import STAGE_VERSION, SelectConfig
from neuclip.stages.stage import Job, Stage, Trace
from neuclip.stages.workspace import Outcome, Workspace


def _run(job: Job[SelectConfig], workspace: Workspace) -> Outcome:
    from neuclip.selection.run import run_select

    return run_select(
        job.config,
        train_uri=job.above["train"],
        shard_uri=job.above["shard"],
        index_uri=job.above["index"],
        workspace=workspace,
        progress=job.progress,
    )


SELECT = Stage(
    name="select",
    version=STAGE_VERSION,
    purpose="Choose the checkpoint.",
    run=_run,
    above=("shard", "index", "train"),
    trace=Trace(stays="the weights of the model, which learnt from the pairs", through="train"),
)
