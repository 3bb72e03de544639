"""The train stage: start the ranks, follow them, and say what they did."""

import json
import logging
import os
import sys
from pathlib import Path

from neuclip.foundation import errors
from neuclip.foundation.children import run_child
from neuclip.foundation.errors import ChildError, DataError, NeuclipError, nearest
from neuclip.foundation.progress import Progress
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import read_manifest, verify_sizes
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import is_local, local_part, name_of
from neuclip.training.config import TrainConfig
from neuclip.training.job import ERROR, PROGRESS_MARK, RESULT, ChildFailure, TrainJob, TrainResult
from neuclip.training.mirror import fetch_run, mirror_run

log = logging.getLogger(__name__)


def run_train(
    config: TrainConfig,
    *,
    seed: int,
    index_uri: str,
    shard_uri: str,
    caption_uri: str,
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    """Train in child processes; checkpoints and metrics go straight to the stage's folder, so a killed run goes on.

    Raises: DataError: if a caption source of the recipe exists for no sample. Whatever the ranks raise.
    """
    for uri in (index_uri, shard_uri):
        verify_sizes(uri, read_manifest(uri))
    _check_caption_sources(config, caption_uri)
    run_folder = (
        local_part(workspace.uri).absolute()
        if is_local(workspace.uri)
        else workspace.scratch / "run"
    )
    if not is_local(workspace.uri):
        fetch_run(workspace.uri, run_folder)
    job = TrainJob(
        config=config,
        seed=seed,
        train_key=name_of(workspace.uri),
        index_uri=index_uri,
        shard_uri=shard_uri,
        run_folder=run_folder,
        mirror_uri=None if is_local(workspace.uri) else workspace.uri,
        exchange_folder=workspace.scratch.absolute(),
    )
    job_path = workspace.scratch / "job.json"
    job_path.write_text(job.model_dump_json(), encoding="utf-8")
    run_folder.mkdir(parents=True, exist_ok=True)
    _run_ranks(job, job_path, progress)
    mirror_run(job)
    result = TrainResult.model_validate_json((job.exchange_folder / RESULT).read_bytes())
    corrupt = len(result.corrupt)
    ledger = make_ledger(
        result.samples,
        result.samples_visited - corrupt,
        {"corrupt": corrupt, "not_visited": result.samples - result.samples_visited},
    )
    return Outcome(ledger=ledger, summary=result.model_dump(mode="json"))


def launch_command(job_path: Path, processes: int) -> list[str]:
    """Return the command that starts the ranks: the program itself for one, torchrun for more."""
    program = ["-m", "neuclip.training.worker", str(job_path)]
    if processes == 1:
        return [sys.executable, *program]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launcher, *program]


def threads_of_a_rank(config: TrainConfig) -> int:
    """Share the cores out to ranks and loading processes: threads that wait for a core cost more than they give."""
    return max(1, (os.cpu_count() or 1) // config.launch.processes - config.loader.workers)


def _run_ranks(job: TrainJob, job_path: Path, progress: Progress) -> None:
    processes, exchange = job.config.launch.processes, job.exchange_folder

    def follow(line: str) -> None:
        if line.startswith(PROGRESS_MARK):
            progress("train", **json.loads(line.removeprefix(PROGRESS_MARK)))
        else:
            log.info("%s", line)

    environment = {
        "OMP_NUM_THREADS": str(threads_of_a_rank(job.config)),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    try:
        run_child(
            launch_command(job_path, processes),
            name="training",
            log_path=job.run_folder / "train.log",
            environment=environment,
            on_line=follow,
            tick_s=0.2,
        )
    except ChildError as error:
        raise _error_of_the_ranks(exchange) or error from error


def _error_of_the_ranks(exchange: Path) -> NeuclipError | None:
    """Return the error that a rank wrote down, as its own class."""
    path = exchange / ERROR
    if not path.exists():
        return None
    failure = ChildFailure.model_validate_json(path.read_bytes())
    kind = getattr(errors, failure.kind, NeuclipError)
    return kind(failure.message)


def _check_caption_sources(config: TrainConfig, caption_uri: str) -> None:
    known = dict(read_manifest(caption_uri).summary["pairs_by_source"])
    for source in config.caption_sources:
        if source not in known:
            raise DataError(
                f"train.caption_sources names {source!r}, which no sample has; sources of the samples: "
                f"{', '.join(known)}.{nearest(source, known)}"
            )
