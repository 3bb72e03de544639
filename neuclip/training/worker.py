"""The program of one rank: `python -m neuclip.training.worker JOB_URI`, alone or under torchrun."""

import logging
import os
import signal
import sys

import torch

from neuclip.distributed.world import World
from neuclip.foundation.children import die_with_parent
from neuclip.foundation.errors import NeuclipError, StoppedError
from neuclip.launching.program import say_begun
from neuclip.storage.files import read_bytes, write_bytes
from neuclip.storage.uris import join, parent_of
from neuclip.training.config import TrainConfig
from neuclip.training.job import ERROR, RESULT, ChildFailure, TrainJob, TrainResult
from neuclip.training.loop import train
from neuclip.training.mirror import bring_checkpoint, drop_local_copy, mirror_run
from neuclip.training.stopping import StopRequest


def main(job_uri: str) -> int:
    """Train as the job says; write the result, or the error, beside the job.

    Returns: the exit code; 0 also for a run that was asked to stop and has saved, which torchrun must not undo.
    """
    stop = StopRequest()
    die_with_parent(signal.SIGKILL)  # nobody is left to start it again, or to wait for it
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    exchange = parent_of(job_uri)
    job = TrainJob.model_validate_json(read_bytes(job_uri))
    world = World.from_environment(timeout_s=2 * job.config.loader.timeout_s)
    torch.set_num_threads(threads_of_a_rank(job.config))
    try:
        if world.is_main:
            say_begun()
        result = _train(job, world, stop)
        if world.is_main:
            write_bytes(join(exchange, RESULT), result.model_dump_json().encode())
    except NeuclipError as error:
        failure = ChildFailure(kind=type(error).__name__, message=str(error))
        write_bytes(join(exchange, ERROR), failure.model_dump_json().encode())
        return 0 if isinstance(error, StoppedError) else error.exit_code
    finally:
        world.close()
    return 0


def threads_of_a_rank(config: TrainConfig) -> int:
    """Share a machine's cores out to ranks and loading processes: threads that wait cost more than they give."""
    cores, ranks = len(os.sched_getaffinity(0)), config.launch.processes
    return max(1, cores // ranks - config.loader.workers)


def _train(job: TrainJob, world: World, stop: StopRequest) -> TrainResult:
    job.run_folder.mkdir(parents=True, exist_ok=True)
    bring_checkpoint(job, world)
    result = train(job, world, stop)
    if world.is_main:
        mirror_run(job)
    drop_local_copy(job, world)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
