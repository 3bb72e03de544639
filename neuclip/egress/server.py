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
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import orjson
from aiohttp import web

from neuclip.egress.config import EgressConfig
from neuclip.egress.fetch import Fetcher, Trace
from neuclip.egress.guard import GUARDED, HOST, READY, USER
from neuclip.egress.refusal import Refusal

log = logging.getLogger(__name__)

_LONGEST_LINE = 100_000
_DETAIL_CHARACTERS = 200


async def serve(config: EgressConfig, journal: Path, token: str) -> None:
    """Serve until cancelled; say the port on standard output once it listens."""
    with journal.open("ab", buffering=0) as fetch_log:
        fetcher = Fetcher(config)
        door = _Door(fetcher, fetch_log.write, token)
        runner = web.ServerRunner(
            web.Server(
                door.answer, access_log=None, max_line_size=_LONGEST_LINE, keepalive_timeout=5
            )
        )
        await runner.setup()
        try:
            await fetcher.started()
            site = web.TCPSite(runner, HOST, 0, backlog=1024)
            await site.start()
            print(f"{READY}{runner.addresses[0][1]}", flush=True)  # noqa: T201  # the parent waits for this line
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            await fetcher.close()


class _Door:
    """Answers one request after the other, and writes a fetch record for each."""

    def __init__(self, fetcher: Fetcher, write: Callable[[bytes], object], token: str) -> None:
        self._fetcher = fetcher
        self._write = write
        password = base64.b64encode(f"{USER}:{token}".encode()).decode()
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
        body: bytes | bytearray = b""
        try:
            body = await self._fetcher.fetch(text, sha256=sha256, trace=trace)
        except Refusal as error:
            refusal = error
        except Exception as error:  # one URL that trips the guard must not cost the others
            log.exception("the guard failed over %r", text)
            refusal = Refusal("other_download", f"{type(error).__name__}: {error}")
        record = {
            "uid": uid,
            "reason": refusal and refusal.reason,
            "detail": refusal and refusal.detail[:_DETAIL_CHARACTERS],
            "sha256": trace.sha256,
            "bytes": trace.size_bytes,
            "hops": trace.hops,
            "host": trace.host,
            "seconds": round(time.monotonic() - began, 3),
        }
        self._write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        if refusal is not None:
            return web.Response(status=403, reason=refusal.reason)
        return web.Response(body=body, content_type="application/octet-stream")


def _not_served(request: web.BaseRequest) -> web.Response:
    log.warning(
        "refused %s %s: only pictures of the table are fetched", request.method, request.raw_path
    )
    return web.Response(status=403, reason="only pictures of the table are fetched")
