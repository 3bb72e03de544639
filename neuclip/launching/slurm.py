"""Ranks as a job of a Slurm cluster: rendered, submitted, followed, cancelled."""

import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from neuclip.foundation.errors import ChildError, StoppedError
from neuclip.launching.config import LaunchConfig, SlurmLaunch
from neuclip.launching.node import node_options
from neuclip.launching.program import Program
from neuclip.launching.programs import Poll, call
from neuclip.launching.tail import Tail
from neuclip.launching.templates import render

log = logging.getLogger(__name__)

_TICK_S = 0.5
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
_AT_WORK = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
_LONGEST_END_S = 60.0
_JOB_ID = re.compile(r"(\d+)(;[\w.-]+)?")


def launch_on_slurm(
    config: LaunchConfig,
    program: Program,
    *,
    max_restarts: int,
    on_tick: Callable[[], None],
) -> None:
    """Submit a job and follow it to its end, through being requeued too; its output is streamed.

    Raises: ChildError: if it cannot be submitted, fails, or vanishes. StoppedError: if somebody cancelled it.
    """
    slurm = config.slurm
    assert slurm is not None
    name = f"neuclip-{program.name}"
    log_path = Path(slurm.log_folder).absolute() / f"{name}-{uuid.uuid4().hex[:8]}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    script = batch_script(config, program, name=name, log_path=log_path, max_restarts=max_restarts)
    job = _submit(script)
    tail = Tail(log_path, program)
    log.info("submitted Slurm job %s (%s), output in %s", job, name, log_path)
    state = ""
    try:
        state = _follow(job, slurm, tail, on_tick)
    finally:
        if not state:
            _cancel(job)
        tail.read()
    if state == "CANCELLED":
        raise StoppedError(
            f"Slurm job {job} was cancelled by somebody else; run again, training goes on from its checkpoint"
        )
    if state != "COMPLETED":
        raise ChildError(f"Slurm job {job} ended as {state}; {tail.describe()}")


def batch_script(
    config: LaunchConfig, program: Program, *, name: str, log_path: Path, max_restarts: int
) -> str:
    """Return the script of the job.

    Raises: ConfigError: if the template does not fit.
    """
    slurm = config.slurm
    assert slurm is not None
    return render(
        "train.launch.slurm.template",
        slurm.template,
        name=name,
        nodes=slurm.nodes,
        log=str(log_path),
        options=slurm.options,
        port=slurm.port,
        node=[slurm.python or sys.executable, "-m", "neuclip.launching.node"],
        node_options=node_options(
            program=program.words,
            processes=config.processes,
            max_restarts=max_restarts,
            nodes=slurm.nodes,
            rendezvous_timeout_s=slurm.rendezvous_timeout_s,
            run_id=name,
        ),
    )


def _submit(script: str) -> str:
    """Hand a script to sbatch on its input; return the job's number."""
    printed = call(["sbatch", "--parsable"], text=script).strip()
    found = _JOB_ID.fullmatch(printed.splitlines()[-1] if printed else "")
    if found is None:
        raise ChildError(f"sbatch --parsable printed {printed!r}, expected a job's number")
    return found[1]


def _follow(job: str, slurm: SlurmLaunch, tail: Tail, on_tick: Callable[[], None]) -> str:
    """Return the state in which the job ended."""
    poll = Poll(lambda: _state(job), every_s=slurm.poll_s, what=f"Slurm job {job}")
    shown = ""
    while True:
        time.sleep(min(_TICK_S, slurm.poll_s))
        tail.read()
        on_tick()
        state = poll.look()
        if state != shown:
            log.info("Slurm job %s is %s", job, state)
            shown = state
        if state and state not in _WAITING | _AT_WORK:
            return state


def _state(job: str) -> str | None:
    """Return the job's state from the queue, which forgets it some minutes after its end, else from the accounts."""
    with suppress(ChildError):
        if printed := call(
            ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"]
        ).strip():
            return printed.splitlines()[0].strip()
    words = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State"]
    printed = call([*words, f"--jobs={job}"]).split()
    return printed[0].rstrip("+") if printed else None  # "CANCELLED by 1000" is one state, too


def _cancel(job: str) -> None:
    """Cancel the job and wait until the cluster has ended its processes."""
    deadline = time.monotonic() + _LONGEST_END_S
    while time.monotonic() < deadline:
        try:
            call(["scancel", job])
            if _state(job) not in _WAITING | _AT_WORK:
                return
        except ChildError as error:
            log.warning("cancelling Slurm job %s: %s", job, error)
        time.sleep(1)
    log.warning("Slurm job %s may still run: look with squeue, end it with scancel %s", job, job)
