"""The publish stage."""

from neuclip.publishing.config import STAGE_VERSION, PublishConfig
from neuclip.stages.stage import Job, Stage, Trace
from neuclip.stages.workspace import Outcome, Workspace


def _run(job: Job[PublishConfig], workspace: Workspace) -> Outcome:
    from neuclip.publishing.run import run_publish

    return run_publish(
        job.config,
        recipe_yaml=job.recipe_yaml,
        uris=job.above,
        data_stages=job.feeding,
        workspace=workspace,
        progress=job.progress,
    )


PUBLISH = Stage(
    name="publish",
    version=STAGE_VERSION,
    purpose="Write the model folder and the report.",
    run=_run,
    above=(
        "acquire",
        "score",
        "curate",
        "caption",
        "text_encoder",
        "shard",
        "index",
        "train",
        "select",
        "evaluate",
    ),
    trace=Trace(stays="the weights of the model; report.html may show the pairs", through="select"),
)
