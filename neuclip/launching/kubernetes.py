"""Ranks as an indexed job of a Kubernetes cluster: rendered, applied, followed, deleted."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

from neuclip.foundation.children import Child, running
from neuclip.foundation.errors import ChildError
from neuclip.launching.config import LaunchConfig
from neuclip.launching.node import node_options
from neuclip.launching.program import Program
from neuclip.launching.programs import Poll, call
from neuclip.launching.templates import render

log = logging.getLogger(__name__)

_TICK_S = 0.5
_ENDED = ("Complete", "Failed")
_LONGEST_LOG_S = 10.0
_SHOWN_LINES = 12


def launch_on_kubernetes(
    config: LaunchConfig,
    program: Program,
    *,
    max_restarts: int,
    on_tick: Callable[[], None],
) -> None:
    """Create a job and its service and follow it to its end; its pods' output is streamed.

    Raises: ChildError: if it cannot be created, fails, or vanishes.
    """
    kubernetes = config.kubernetes
    assert kubernetes is not None
    name = f"neuclip-{program.name}"
    text = manifest(config, program, name=name, max_restarts=max_restarts)
    kubectl = ["kubectl", f"--namespace={kubernetes.namespace}"]
    last: deque[str] = deque(maxlen=_SHOWN_LINES)

    def on_line(line: str) -> None:
        last.append(line)
        program.on_line(line)

    heard = replace(program, on_line=on_line)
    with _created(kubectl, text), ExitStack() as stack:
        log.info("created Kubernetes job %s in %s", name, kubernetes.namespace)
        poll = Poll(
            lambda: _state(kubectl, name), every_s=kubernetes.poll_s, what=f"Kubernetes job {name}"
        )
        logs: Child | None = None
        while (state := poll.look()) not in _ENDED:
            time.sleep(min(_TICK_S, kubernetes.poll_s))
            on_tick()
            if state == "running" and (logs is None or not logs.is_running):
                lines = -1 if logs is None else 0  # after a break only what is new
                follow = _logs(kubectl, name, heard, pods=kubernetes.pods, lines=lines)
                logs = stack.enter_context(follow)
        if logs is None:  # it has ended between two looks
            follow = _logs(kubectl, name, heard, pods=kubernetes.pods, lines=-1)
            logs = stack.enter_context(follow)
        _wait_for_the_last_lines(logs)
    if state == "Failed":
        raise ChildError(
            f"Kubernetes job {name} failed; the end of its log ({program.log_path}):\n"
            + "\n".join(last)
        )


def manifest(config: LaunchConfig, program: Program, *, name: str, max_restarts: int) -> str:
    """Return job and service as YAML.

    Raises: ConfigError: if the template does not fit.
    """
    kubernetes = config.kubernetes
    assert kubernetes is not None
    options = node_options(
        program=program.words,
        processes=config.processes,
        max_restarts=max_restarts,
        nodes=kubernetes.pods,
        rendezvous_timeout_s=kubernetes.rendezvous_timeout_s,
        run_id=name,
    )
    first_pod = f"{name}-0.{name}.{kubernetes.namespace}.svc"
    node = [kubernetes.python, "-m", "neuclip.launching.node"]
    command = [*node, f"--endpoint={first_pod}:{kubernetes.port}", *options]
    return render(
        "train.launch.kubernetes.template",
        kubernetes.template,
        name=name,
        namespace=kubernetes.namespace,
        pods=kubernetes.pods,
        image=kubernetes.image,
        command=[
            word.replace("$(", "$$(") for word in command
        ],  # Kubernetes would put a variable there
        secret=kubernetes.secret,
        resources=kubernetes.resources,
    )


@contextmanager
def _created(kubectl: list[str], text: str) -> Generator[None]:
    """Create what a manifest names, and delete it on every way out; what a dead launcher left goes first."""
    delete = [*kubectl, "delete", "--filename=-", "--ignore-not-found", "--cascade=foreground"]
    call([*delete, "--wait", "--timeout=90s"], text=text)
    try:
        call([*kubectl, "apply", "--filename=-"], text=text)
        yield
    finally:
        try:
            call([*delete, "--wait", "--timeout=90s"], text=text)
        except ChildError as error:
            log.warning("the job could not be deleted, do it by hand: %s", error)


def _state(kubectl: list[str], name: str) -> str | None:
    """Return Complete, Failed, running (all pods are at work) or waiting."""
    printed = call([*kubectl, "get", "job", name, "--output=json", "--ignore-not-found"])
    if not printed.strip():
        return None
    job = json.loads(printed)
    status = job.get("status", {})
    for condition in status.get("conditions", []):
        if condition.get("type") in _ENDED and condition.get("status") == "True":
            return str(condition["type"])
    pods = job["spec"]["completions"]
    return "running" if status.get("ready", 0) >= pods else "waiting"


def _logs(
    kubectl: list[str], name: str, program: Program, *, pods: int, lines: int
) -> AbstractContextManager[Child]:
    """Follow the output of all pods, from the last `lines` on; -1 is from the beginning."""
    return running(
        [
            *kubectl,
            "logs",
            "--follow",
            f"--selector=job-name={name}",
            f"--max-log-requests={pods}",
            f"--tail={lines}",
        ],
        name=f"the output of {name}",
        log_path=program.log_path,
        on_line=program.on_line,
    )


def _wait_for_the_last_lines(logs: Child) -> None:
    deadline = time.monotonic() + _LONGEST_LOG_S
    while logs.is_running and time.monotonic() < deadline:
        time.sleep(_TICK_S)
