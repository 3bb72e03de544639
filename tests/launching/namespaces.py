"""Machines of a network that are not there: network namespaces on one bridge, and this machine beside them."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PORT = 29511


@dataclass(frozen=True)
class Machines:
    """Names of the namespaces, and the beginning of all addresses."""

    names: tuple[str, ...]
    net: str

    @property
    def own_address(self) -> str:
        """What this machine is called by the others."""
        return f"{self.net}.254"

    def launch(self, **changes) -> dict:
        """Return the recipe's section for ranks on all of them."""
        hosts = {
            "names": list(self.names),
            "connect": ["ip", "netns", "exec", "{host}"],
            "endpoint": f"{self.net}.1:{PORT}",
            "rendezvous_timeout_s": 60,
        }
        return {"processes": 1, "hosts": hosts, **changes}

    def pids(self, name: str) -> list[int]:
        return [int(word) for word in _ip("netns", "pids", name).split()]

    def all_pids(self) -> list[int]:
        return [pid for name in self.names for pid in self.pids(name)]

    def kill(self, name: str) -> None:
        """End all processes of a machine at once, as a loss of power would."""
        for pid in self.pids(name):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def machines(count: int = 2) -> Generator[Machines]:
    """Make them, and take them away on every way out."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (Debian package iproute2)")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    tag, net = f"{os.getpid() % 100000}", f"10.77.{random.randint(1, 250)}"
    found = Machines(tuple(f"clip{tag}n{n}" for n in range(1, count + 1)), net)
    bridge = f"clip{tag}"
    try:
        try:
            _make(found, bridge)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield found
    finally:
        for name in found.names:
            if Path("/run/netns", name).exists():
                found.kill(name)
            for words in (["netns", "del", name], ["link", "del", f"{name}v"]):
                subprocess.run(["ip", *words], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


def _make(found: Machines, bridge: str) -> None:
    _ip("link", "add", bridge, "type", "bridge")
    _ip("addr", "add", f"{found.own_address}/24", "dev", bridge)
    _ip("link", "set", bridge, "up")
    for number, name in enumerate(found.names, start=1):
        _ip("netns", "add", name)
        _ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "net0", "netns", name)
        _ip("link", "set", f"{name}v", "master", bridge, "up")
        _ip("-n", name, "addr", "add", f"{found.net}.{number}/24", "dev", "net0")
        for device in ("net0", "lo"):
            _ip("-n", name, "link", "set", device, "up")


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return done.stdout
