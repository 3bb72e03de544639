"""The guard: a forward proxy on loopback that fetches for the programs it is given to, and nobody else.

A program asks it for `http://guard.invalid/UID?url=URL&sha256=HEX`, percent-encoded, and gets the picture or a refusal
whose reason phrase is the reason. URLs stand in the query so that TLS ends here: the path of an https URL, its headers,
redirects and bytes are seen like those of an http one. A tunnel (CONNECT) or another host is refused, so what else a
program tries to fetch goes nowhere.
"""

import asyncio
import base64
import hmac
import logging
import secrets
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import parse_qs, quote, urlsplit

import orjson
from aiohttp import web

from neuclip.egress.config import EgressConfig
from neuclip.egress.fetch import Fetcher, Trace
from neuclip.egress.refusal import Refusal
from neuclip.foundation.children import Child, running
from neuclip.foundation.errors import ChildError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
GUARDED = "guard.invalid"
READY = "egress guard listens on port "
_USER = "neuclip"
_START_UP_S = 120.0
_LONGEST_LINE = 100_000
_DETAIL_CHARACTERS = 200


@dataclass(frozen=True)
class Guard:
    """A running guard: give `proxy_url` as http_proxy and https_proxy to the programs it serves."""

    proxy_url: str
    pid: int
    child: Child


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

    job = orjson.dumps(
        {"token": token, "config": config.model_dump(mode="json"), "journal": str(journal)}
    )
    with running(
        [sys.executable, "-m", "neuclip.egress.child"],
        name="egress guard",
        log_path=log_path or journal.with_suffix(".log"),
        on_line=on_line,
        leash=job.decode() + "\n",
    ) as child:
        port = _wait_for_port(ports, child)
        yield Guard(f"http://{_USER}:{token}@{HOST}:{port}", child.pid, child)


def _wait_for_port(ports: "SimpleQueue[int]", child: Child) -> int:
    deadline = time.monotonic() + _START_UP_S
    while time.monotonic() < deadline:
        with suppress(Empty):
            return ports.get(timeout=0.2)
        child.check()
        if not child.is_running:
            break
    raise ChildError(f"the egress guard did not start within {_START_UP_S:g} s; run again")


async def serve(config: EgressConfig, journal: Path, token: str) -> None:
    """Serve until cancelled; say the port on standard output once it listens."""
    with journal.open("ab", buffering=0) as receipts:
        fetcher = Fetcher(config)
        door = _Door(fetcher, receipts.write, token)
        runner = web.ServerRunner(
            web.Server(
                door.answer, access_log=None, max_line_size=_LONGEST_LINE, keepalive_timeout=5
            )
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, 0, backlog=1024)
            await site.start()
            print(f"{READY}{runner.addresses[0][1]}", flush=True)  # noqa: T201  # the parent waits for this line
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            await fetcher.close()


class _Door:
    """Answers one request after the other, and writes a receipt for each."""

    def __init__(self, fetcher: Fetcher, write: Callable[[bytes], object], token: str) -> None:
        self._fetcher = fetcher
        self._write = write
        password = base64.b64encode(f"{_USER}:{token}".encode()).decode()
        self._authorization = f"Basic {password}"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        given = request.headers.get("Proxy-Authorization", "")
        if not hmac.compare_digest(given.encode(), self._authorization.encode()):
            return web.Response(status=407, reason="this guard serves another program")
        try:
            target = urlsplit(request.raw_path)
            asked = parse_qs(
                target.query, keep_blank_values=True, strict_parsing=True, errors="surrogateescape"
            )
            uid, text, sha256 = target.path.strip("/"), asked["url"][0], asked["sha256"][0]
        except (ValueError, KeyError):
            return _not_served(request)
        if request.method != "GET" or target.hostname != GUARDED:
            return _not_served(request)
        return await self._fetch(uid, text, sha256 or None)

    async def _fetch(self, uid: str, text: str, sha256: str | None) -> web.Response:
        trace, began = Trace(), time.monotonic()
        refusal: Refusal | None = None
        body = b""
        try:
            body = await self._fetcher.fetch(text, sha256=sha256, trace=trace)
        except Refusal as error:
            refusal = error
        except Exception as error:  # one URL that trips the guard must not cost the others
            log.exception("the guard failed over %r", text)
            refusal = Refusal("other_download", f"{type(error).__name__}: {error}")
        receipt = {
            "uid": uid,
            "reason": refusal and refusal.reason,
            "detail": refusal and refusal.detail[:_DETAIL_CHARACTERS],
            "sha256": trace.sha256,
            "bytes": trace.size_bytes,
            "hops": trace.hops,
            "host": trace.host,
            "seconds": round(time.monotonic() - began, 3),
        }
        self._write(orjson.dumps(receipt, option=orjson.OPT_APPEND_NEWLINE))
        if refusal is not None:
            return web.Response(status=403, reason=refusal.reason)
        return web.Response(body=body, content_type="application/octet-stream")


def _not_served(request: web.BaseRequest) -> web.Response:
    log.warning(
        "refused %s %s: only pictures of the table are fetched", request.method, request.raw_path
    )
    return web.Response(status=403, reason="only pictures of the table are fetched")
