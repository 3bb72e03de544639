"""Ranks on this machine, or on machines that a command such as ssh reaches: one controlled node program for each."""

import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from neuclip.foundation.children import END, QUIT, Child, running
from neuclip.foundation.errors import NeuclipError
from neuclip.launching.config import HostsLaunch, LaunchConfig
from neuclip.launching.node import LaunchOptions, node_options
from neuclip.launching.program import Program
from neuclip.launching.supervise import SAVE_S

_TICK_S = 0.2
_PASSED_ON = ("AWS_", "NEUCLIP_", "NCCL_", "GLOO_", "TORCH_", "OMP_")
"""Beginnings of the names of variables that other machines get, too."""
_NODE = ["-m", "neuclip.launching.node", "--control"]


def launch_agents(
    config: LaunchConfig,
    program: Program,
    *,
    max_restarts: int,
    on_tick: Callable[[], None],
) -> None:
    """Start a node program on each machine; when one of them fails, all end.

    Raises: ChildError: naming the machine that failed first.
    """
    with ExitStack() as stack:
        nodes: list[Child] = []
        for command, name, control in _nodes(config, program, max_restarts=max_restarts):
            node = running(
                command,
                name=name,
                log_path=program.log_path,
                on_line=program.on_line,
                control=control.model_dump_json() + "\n",
                control_s=SAVE_S + 5,
            )
            nodes.append(stack.enter_context(node))
        try:
            while any(node.is_running for node in nodes):
                time.sleep(_TICK_S)
                on_tick()
                for node in nodes:
                    node.check()
        except BaseException as error:
            # Ranks that have lost one of them cannot save.
            _end_together(nodes, QUIT if isinstance(error, NeuclipError) else END)
            raise
    for node in nodes:
        node.check()


def _end_together(nodes: Sequence[Child], word: str) -> None:
    """End all machines at the same time, not one after the other; an exception meanwhile ends them at once."""
    deadline = time.monotonic() + SAVE_S
    try:
        for node in nodes:
            node.tell(word)
        while any(node.is_running for node in nodes) and time.monotonic() < deadline:
            time.sleep(_TICK_S)
    except BaseException:
        for node in nodes:
            node.tell(QUIT)
        raise


def _nodes(
    config: LaunchConfig, program: Program, *, max_restarts: int
) -> list[tuple[list[str], str, LaunchOptions]]:
    """Return command, name and launch options for each machine."""
    options = node_options(
        program=program.words,
        processes=config.processes,
        max_restarts=max_restarts,
        nodes=config.machines,
        rendezvous_timeout_s=config.elsewhere.rendezvous_timeout_s if config.elsewhere else 0,
        run_id=f"{program.name}-{uuid.uuid4().hex[:8]}",
    )
    if config.hosts is None:
        return [
            ([sys.executable, *_NODE], "training", LaunchOptions(options=options, environment={}))
        ]
    environment = {n: v for n, v in os.environ.items() if n.startswith(_PASSED_ON)}
    return [
        (
            _connected(config.hosts, name),
            f"training on {name}",
            LaunchOptions(
                options=[*_own_options(config.hosts, number), *options], environment=environment
            ),
        )
        for number, name in enumerate(config.hosts.names)
    ]


def _connected(hosts: HostsLaunch, name: str) -> list[str]:
    python = hosts.python or sys.executable
    return [*(word.replace("{host}", name) for word in hosts.connect), python, *_NODE]


def _own_options(hosts: HostsLaunch, number: int) -> list[str]:
    """Return the options in which this machine differs from the others."""
    return [
        f"--number={number}",
        f"--label={hosts.names[number]}",
        f"--endpoint={hosts.meeting_place}",
    ]
