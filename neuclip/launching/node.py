"""The program on each machine of a run: it starts that machine's ranks and ends them.

`python -m neuclip.launching.node --processes 8 --nodes 2 --endpoint 10.0.0.1:29500 --run-id a -- -m PROGRAM ...`

With `--control` alone, the options and variables for the ranks come as one line of JSON on the input, which
stays open as long as the ranks may live; END or QUIT may come there. So no word passes through a shell, no
secret through a list of processes, and the end of the connection is the end of the ranks.
"""

import argparse
import json
import os
import socket
import sys
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from neuclip.foundation.errors import ConfigError
from neuclip.launching.network import interface_of, own_address
from neuclip.launching.supervise import supervise

CAME_MARK = "@came "
"""A line with this and JSON says that a machine is there: label, address, endpoint."""
_SHUTDOWN_S = 20.0
"""Seconds that torchrun gives ranks when one of them has died: the others wait for it and cannot save."""
_NODE_NUMBERS = ("SLURM_NODEID", "JOB_COMPLETION_INDEX")


class LaunchOptions(BaseModel):
    """The launch options: the line on the input of a node that the launcher controls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: list[str]
    environment: dict[str, str]


def node_options(
    *,
    program: Sequence[str],
    processes: int,
    max_restarts: int,
    nodes: int = 1,
    rendezvous_timeout_s: float = 600,
    run_id: str = "run",
) -> list[str]:
    """Return the options of this program for one machine of several, but for those that differ between them."""
    return [
        f"--processes={processes}",
        f"--nodes={nodes}",
        f"--max-restarts={max_restarts}",
        f"--rendezvous-timeout={rendezvous_timeout_s:g}",
        f"--run-id={run_id}",
        "--",
        *program,
    ]


def main(arguments: Sequence[str]) -> int:
    """Start this machine's ranks and wait for their end; return torchrun's or the only rank's exit code."""
    control = None
    if list(arguments) == ["--control"]:
        control = sys.stdin.fileno()
        given = LaunchOptions.model_validate_json(_first_line(control))
        for name, value in given.environment.items():
            os.environ.setdefault(name, value)  # what a machine says of itself stands
        arguments = given.options
    options = _parse(arguments)
    try:
        command = ranks_command(options)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return supervise(command, control=control, is_rank=options.nodes * options.processes == 1)


def ranks_command(options: argparse.Namespace) -> list[str]:
    """Return the command that starts this machine's ranks, and set the variables that it needs.

    The program itself for one rank, torchrun for more; over several machines with the two things that it does
    not find out by itself: which machine has the meeting place, and what this one is called on the network.

    Raises: ConfigError: if there is no way to the meeting place.
    """
    program = [sys.executable, *options.program]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a rank sets its own number
    # Else a machine that comes again waits for an address that nobody publishes a second time.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    came = {"label": options.label, "endpoint": options.endpoint}
    if options.nodes == 1:
        if options.processes == 1:
            return program
        return [*_torchrun(options), "--standalone", *options.program]
    address = own_address(options.endpoint)
    if interface := interface_of(address):
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, interface)
    sys.stdout.write(CAME_MARK + json.dumps({**came, "address": address}) + "\n")
    sys.stdout.flush()
    timeout = f"{options.rendezvous_timeout:g}"
    return [
        *_torchrun(options),
        f"--nnodes={options.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={options.endpoint}",
        f"--rdzv-id={options.run_id}",
        f"--rdzv-conf=is_host={int(options.number == 0)},join_timeout={timeout},timeout={timeout}",
        f"--local-addr={address}",
        *options.program,
    ]


def _torchrun(options: argparse.Namespace) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        f"--nproc-per-node={options.processes}",
        f"--max-restarts={options.max_restarts}",
        f"--shutdown-timeout={_SHUTDOWN_S:g}",
    ]


def _first_line(descriptor: int) -> bytes:
    """Read one line and nothing after it, so that whoever waits for the end of the input sees it."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="neuclip.launching.node")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--rendezvous-timeout", type=float, default=600)
    parser.add_argument("--run-id", default="run")
    number = next((os.environ[name] for name in _NODE_NUMBERS if name in os.environ), "0")
    parser.add_argument("--number", type=int, default=int(number))
    parser.add_argument("--label", default=socket.gethostname())
    parser.add_argument("program", nargs=argparse.REMAINDER)
    options = parser.parse_args(list(arguments))
    options.program = options.program[options.program[:1] == ["--"] :]
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
