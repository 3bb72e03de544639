"""The evaluate stage."""

from neuclip.evaluation.config import STAGE_VERSION, EvaluateConfig
from neuclip.loading.set_inputs import fingerprint_sets
from neuclip.stages.stage import Job, Stage, Trace
from neuclip.stages.workspace import Outcome, Workspace


def _run(job: Job[EvaluateConfig], workspace: Workspace) -> Outcome:
    from neuclip.evaluation.run import run_evaluate

    return run_evaluate(
        job.config,
        select_uri=job.above["select"],
        text_encoder_uri=job.above.get("text_encoder"),
        root=job.root,
        workspace=workspace,
        progress=job.progress,
        pool=job.pool,
        force=job.force,
    )


def _check(config: EvaluateConfig) -> None:
    """Refuse a set that could not be told in its own metric at the end."""
    from neuclip.evaluation.main_metric import require_metrics

    require_metrics(config.sets)


def _inputs(config: EvaluateConfig) -> dict[str, str]:
    return fingerprint_sets(config.sets)


EVALUATE = Stage(
    name="evaluate",
    version=STAGE_VERSION,
    purpose="Score the chosen model.",
    run=_run,
    above=("text_encoder", "select"),
    inputs=_inputs,
    check=_check,
    trace=Trace(stays="scores of that model", through="select"),
)
