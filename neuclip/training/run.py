"""The train stage: start the ranks, follow them, and say what they did."""

import json
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from neuclip.checkpoint.folder import LATEST, Pointer
from neuclip.foundation import errors
from neuclip.foundation.errors import ChildError, NeuclipError
from neuclip.foundation.progress import Progress
from neuclip.launching.launch import Restarts, launch
from neuclip.launching.program import Program
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.files import exists, read_bytes, remove, remove_tree, write_bytes
from neuclip.storage.uris import absolute, is_local, join, name_of
from neuclip.training.config import TrainConfig
from neuclip.training.job import (
    CHECKPOINTS,
    ERROR,
    JOB,
    PROGRESS_MARK,
    RESULT,
    ChildFailure,
    TrainJob,
    TrainResult,
)
from neuclip.training.mirror import EXCHANGE
from neuclip.training.preflight import Preflight

log = logging.getLogger(__name__)


def run_train(
    config: TrainConfig,
    *,
    seed: int,
    index_uri: str,
    shard_uri: str,
    text_encoder_uri: str | None = None,
    workspace: Workspace,
    progress: Progress,
    start: Mapping[str, Any] = MappingProxyType({}),
) -> Outcome:
    """Train in other processes; checkpoints and metrics go straight to the stage's folder, so a killed run goes on.

    Args:
        start: what the manifest says of the initial weights.
    Raises: NeuclipError: what preflight refuses, and whatever the ranks raise.
    """
    job = TrainJob(
        config=config,
        seed=seed,
        train_key=name_of(workspace.uri),
        index_uri=absolute(index_uri),
        shard_uri=absolute(shard_uri),
        text_encoder_uri=text_encoder_uri and absolute(text_encoder_uri),
        run_uri=absolute(workspace.uri),
    )
    for what, check in Preflight(job).inputs.items():
        log.info("preflight, %s: %s", what, check())
    restarts = Restarts(allowed=config.launch.max_restarts)
    # Where every machine reads and writes: the scratch folder at the root, or a place in object storage.
    on_disk = is_local(workspace.uri)
    exchange = absolute(str(workspace.scratch)) if on_disk else join(job.run_uri, EXCHANGE)
    try:
        result = _run_ranks(job, exchange, workspace, restarts, progress)
    finally:
        if not on_disk:
            remove_tree(exchange)
    corrupt, unused = len(result.corrupt), result.never_used
    ledger = make_ledger(
        result.samples,
        result.samples_visited - corrupt - unused,
        {
            "corrupt": corrupt,
            "only_in_bad_batches": unused,
            "not_visited": result.samples - result.samples_visited,
        },
    )
    said = result.model_dump(mode="json")
    texts = {
        view: {**shown, "asked": config.describe_captions(view)}
        for view, shown in said["texts"].items()
    }
    summary = {**said, "texts": texts, "restarts": restarts.count, **start}
    return Outcome(ledger=ledger, summary=summary)


def _run_ranks(
    job: TrainJob, exchange: str, workspace: Workspace, restarts: Restarts, progress: Progress
) -> TrainResult:
    """Start the ranks, follow them to their end, and return what they said."""
    for leftover in (RESULT, ERROR):
        remove(join(exchange, leftover))
    job_uri = join(exchange, JOB)
    write_bytes(job_uri, job.model_dump_json().encode())
    log_folder = job.run_folder if is_local(workspace.uri) else workspace.output
    log_folder.mkdir(parents=True, exist_ok=True)

    def follow(line: str) -> None:
        if line.startswith(PROGRESS_MARK):
            report = json.loads(line.removeprefix(PROGRESS_MARK))
            if restarts.count:
                report["note"] += f", restarts {restarts.count}"
            progress("train", **report)
        else:
            log.info("%s", line)

    program = Program(
        name=job.train_key,
        words=["-m", "neuclip.training.worker", job_uri],
        log_path=log_folder / "train.log",
        on_line=follow,
        take_error=lambda: _take_error(exchange),
    )
    try:
        launch(job.config.launch, program, restarts)
    except BaseException as error:
        if not isinstance(error, Exception) and not hasattr(error, "__notes__"):
            error.add_note(_what_is_kept(job))
        raise
    result_uri = join(exchange, RESULT)
    if not exists(result_uri):
        raise ChildError(
            f"the ranks ended without a result; see {program.log_path}, then run again"
        )
    return TrainResult.model_validate_json(read_bytes(result_uri))


def _what_is_kept(job: TrainJob) -> str:
    """Say from where a run goes on whose ranks were ended before they could save."""
    uri = join(job.run_uri, CHECKPOINTS, LATEST)
    if not exists(uri):
        return "training has saved nothing yet; run the same command again to begin it"
    name = Pointer.model_validate_json(read_bytes(uri)).checkpoint
    return f"training is saved at step {int(name.rpartition('-')[2])}; run the same command again to go on from there"


def _take_error(exchange: str) -> NeuclipError | None:
    """Return, once, the error that a rank wrote down, as its own class."""
    uri = join(exchange, ERROR)
    if not exists(uri):
        return None
    failure = ChildFailure.model_validate_json(read_bytes(uri))
    remove(uri)
    kind = getattr(errors, failure.kind, NeuclipError)
    return kind(failure.message)
