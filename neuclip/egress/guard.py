"""A guard for a download: start it, and write the URLs that it is asked for. What it does is in server.py."""

import json
import secrets
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import quote

from neuclip.egress.config import EgressConfig
from neuclip.foundation.children import Child, running
from neuclip.foundation.errors import ChildError

HOST = "127.0.0.1"
GUARDED = "guard.invalid"
"""The only host that a guard answers for."""
READY = "egress guard listens on port "
USER = "neuclip"
_START_UP_S = 120.0


@dataclass(frozen=True)
class Guard:
    """A running guard: give `proxy_url` as http_proxy and https_proxy to the programs it serves."""

    proxy_url: str
    child: Child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid


def guarded_url(uid: str, url: str, sha256: str | None = None) -> str:
    """Return the URL to ask the guard for."""
    return f"http://{GUARDED}/{uid}?url={quote(url, safe='')}&sha256={sha256 or ''}"


@contextmanager
def running_guard(
    config: EgressConfig, journal: Path, *, log_path: Path | None = None
) -> Generator[Guard]:
    """Start a guard in a child process and end it on every way out of the block.

    Args:
        journal: gets a JSON line for every fetch: uid, reason (null on success), detail, sha256 and bytes as received,
            hops, host, seconds.
        log_path: gets the child's words; by default a file beside the journal.
    Raises: ChildError: if it does not start.
    """
    token = secrets.token_urlsafe(32)
    ports: SimpleQueue[int] = SimpleQueue()

    def on_line(line: str) -> None:
        if line.startswith(READY):
            ports.put(int(line.removeprefix(READY)))

    job = json.dumps(
        {"token": token, "config": config.model_dump(mode="json"), "journal": str(journal)}
    )
    with running(
        [sys.executable, "-m", "neuclip.egress.child"],
        name="egress guard",
        log_path=log_path or journal.with_suffix(".log"),
        on_line=on_line,
        control=job + "\n",
    ) as child:
        port = _wait_for_port(ports, child)
        yield Guard(f"http://{USER}:{token}@{HOST}:{port}", child)


def _wait_for_port(ports: "SimpleQueue[int]", child: Child) -> int:
    deadline = time.monotonic() + _START_UP_S
    while time.monotonic() < deadline:
        with suppress(Empty):
            return ports.get(timeout=0.2)
        child.check()
        if not child.is_running:
            break
    raise ChildError(f"the egress guard did not start within {_START_UP_S:g} s; run again")
