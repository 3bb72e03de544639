"""A Prefect server with the work pool, a worker in another folder, and all deployments."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from made.demo_web import DEMO_RECIPE

REPOSITORY = Path(__file__).parents[2]
_POLL_S = 0.5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: Callable[[], Any], *, seconds: float, name: str) -> Any:
    """Return the first true value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(_POLL_S)
    raise TimeoutError(f"{name}: not within {seconds:g} s")


def descendants(pid: int) -> dict[int, str]:
    """Return pid -> command line of all living processes below one."""
    children: dict[int, list[int]] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(folder.name))
    found: dict[int, str] = {}
    front = children.get(pid, [])
    while front:
        found |= {child: commands[child] for child in front}
        front = [grandchild for child in front for grandchild in children.get(child, [])]
    return found


class PrefectServer:
    """Server, pool, worker and deployments; all in one folder, all ended by pid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipes = folder / "recipes"
        self.recipes.mkdir()
        self._port = free_port()
        self.api_url = f"http://127.0.0.1:{self._port}/api"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        self._environment = inherited | {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "NEUCLIP_RECIPES": f"{Path(DEMO_RECIPE).parent},{self.recipes}",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._http = httpx.Client(base_url=self.api_url, timeout=30)

    def start(self) -> None:
        words = ["start", "--host", "127.0.0.1", "--port", str(self._port)]
        self._start("server", "server", *words)
        wait_for(self._is_up, seconds=180, name="Prefect server")
        self.cli("work-pool", "create", "neuclip", "--type", "process")
        self.cli("deploy", "--all")
        self.worker = self._start("worker", "worker", "start", "--pool", "neuclip")

    def cli(self, *words: str) -> str:
        """Run `prefect --no-prompt ...` from the repository root."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            cwd=REPOSITORY,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    def find(self, what: str, query: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        return self._http.post(f"/{what}/filter", json=query or {}).raise_for_status().json()

    def begin(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment; return its id."""
        words = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
        printed = self.cli("deployment", "run", deployment, *words)
        return re.search(r"UUID: ([0-9a-f-]{36})", printed)[1]

    def end_of(self, run_id: str, *, seconds: float = 400) -> dict[str, Any]:
        """Wait for the end of a run; return its last state."""

        def final_state() -> dict[str, Any] | None:
            state = self.get(f"/flow_runs/{run_id}")["state"]
            is_final = state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
            return state if is_final else None

        return wait_for(final_state, seconds=seconds, name=f"the end of run {run_id}")

    def runs_below(self, run_id: str) -> list[dict[str, Any]]:
        """Return the flow runs that a flow run started."""
        below = {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}}
        return self.find("flow_runs", below)

    def artifacts(self, *run_ids: str) -> dict[str, dict[str, Any]]:
        """Return the artifacts of flow runs by key."""
        found = self.find("artifacts", {"artifacts": {"flow_run_id": {"any_": list(run_ids)}}})
        return {artifact["key"]: artifact for artifact in found if artifact["key"]}

    def close(self) -> None:
        self._http.close()
        for process in reversed(self._started):
            left = [process.pid, *descendants(process.pid)]
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid in left:
                    _send(pid, number)
                try:
                    process.wait(timeout=15)
                    break
                except subprocess.TimeoutExpired:
                    continue
            for pid in left:
                _send(pid, signal.SIGKILL)

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *words],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def _is_up(self) -> bool:
        try:
            return self._http.get("/health").is_success
        except httpx.TransportError:
            return False


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
