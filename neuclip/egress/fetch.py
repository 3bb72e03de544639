"""One URL to checked bytes: every hop parsed, resolved, asked gently and capped, or a Refusal that says why not."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from random import random

import aiohttp
from aiohttp import http_exceptions
from cachetools import LRUCache
from yarl import URL

from neuclip.egress import opt_outs, robots
from neuclip.egress.addresses import parse, target
from neuclip.egress.config import PRODUCT_TOKEN, EgressConfig
from neuclip.egress.hosts import LONGEST_QUIET_S, Host
from neuclip.egress.judges import Judges
from neuclip.egress.refusal import TRANSIENT_REASONS, Refusal
from neuclip.egress.resolver import CheckedResolver
from neuclip.foundation.retry_after import retry_after_s

_REDIRECTS = (301, 302, 303, 307, 308)
_NAMED_STATUS = {403: "http_403", 404: "http_404", 410: "http_410", 429: "http_429"}
_HOSTS_KEPT = 50_000
"""Far more than are asked at once; one that was forgotten begins anew."""
_LARGE_BODY_BYTES = 4_000_000
_LARGE_BODIES_AT_A_TIME = 4
_LONG_TO_HASH_BYTES = 500_000
_FIRST_BACK_OFF_S = 1.0
_ERRORS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientSSLError, "tls"),
    (TimeoutError, "timeout"),
    (aiohttp.ClientPayloadError, "truncated"),
    (http_exceptions.BadHttpMessage, "bad_response"),
    (aiohttp.ClientResponseError, "bad_response"),
    (aiohttp.InvalidURL, "bad_url"),
    (aiohttp.ClientError, "connection"),
    (OSError, "connection"),
    (UnicodeError, "bad_url"),
    (ValueError, "bad_url"),
)
"""What the client raises, the more special before the more general."""


@dataclass
class Trace:
    """What is known of a fetch so far, whether it ends well or not."""

    host: str = ""
    hops: int = 0
    size_bytes: int = 0
    sha256: str | None = None


@dataclass
class _Budget:
    """Seconds that a try has left; waiting for a place at a host costs nothing."""

    left_s: float

    @asynccontextmanager
    async def spent(self) -> AsyncGenerator[None]:
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(self.left_s, 0)):
                yield
        finally:
            self.left_s -= time.monotonic() - began


class Fetcher:
    """Fetches pictures for one worker; made and used inside a running event loop."""

    def __init__(self, config: EgressConfig) -> None:
        self._config = config
        self._resolver = CheckedResolver(config)
        self._hosts = LRUCache[str, Host](_HOSTS_KEPT)
        self._judges = Judges(config)
        self._robots = robots.Robots(self._get_robots, self._judges.allows)
        self._large = asyncio.Semaphore(_LARGE_BODIES_AT_A_TIME)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, limit=0, use_dns_cache=False, keepalive_timeout=10
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent(config.contact), "Accept-Encoding": "identity"},
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=config.timeout_s, sock_read=config.timeout_s
            ),
        )

    async def started(self) -> None:
        """Wait until pictures can be judged."""
        await self._judges.started()

    async def close(self) -> None:
        """Close all connections and end all processes."""
        await self._judges.close()
        await self._session.close()

    async def fetch(self, text: str, *, sha256: str | None, trace: Trace) -> bytes | bytearray:
        """Return the bytes of a picture that may be decoded, tried again where the failure may pass.

        Args:
            sha256: hex digest that the bytes must have, None if it is not known.
            trace: is filled in on the way.
        Raises: Refusal
        """
        url = parse(text)
        for tries_left in range(self._config.retries, -1, -1):
            try:
                return await self._once(url, sha256, trace)
            except Refusal as refusal:
                wait_s = refusal.wait_s or 0.0
                if (
                    not tries_left
                    or refusal.reason not in TRANSIENT_REASONS
                    or wait_s > LONGEST_QUIET_S
                ):
                    raise
                tried = self._config.retries - tries_left
                back_off_s = _FIRST_BACK_OFF_S * 2**tried * (0.5 + random())  # noqa: S311  # only spreads load
                await asyncio.sleep(max(wait_s, back_off_s))
        raise AssertionError("a try either returns or raises")

    async def _once(self, url: URL, sha256: str | None, trace: Trace) -> bytes | bytearray:
        budget = _Budget(self._config.deadline_s)
        body = await self._follow(url, budget, trace, is_picture=True)
        trace.size_bytes = len(body)
        trace.sha256 = await _sha256(body)
        if sha256 and trace.sha256 != sha256.lower():
            raise Refusal("sha256_mismatch", f"the bytes have {trace.sha256}")
        try:
            return await self._judges.picture(body, budget.spent)
        except TimeoutError as error:
            words = (
                f"the picture was not read within what deadline_s={self._config.deadline_s:g} left"
            )
            raise Refusal("timeout", words) from error

    async def _follow(self, url: URL, budget: _Budget, trace: Trace, *, is_picture: bool) -> bytes:
        """Follow redirects to a picture, or to a robots.txt, which no robots.txt has a say in."""
        seen: set[URL] = set()
        for hop in range(self._config.max_redirects + 1):
            trace.host, trace.hops = url.raw_host or "", hop
            if url in seen:
                raise Refusal("redirect", f"comes back to {url}")
            seen.add(url)
            answer = await self._ask(url, budget, is_picture=is_picture)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise Refusal("redirect", f"more than {self._config.max_redirects} redirects")

    async def _ask(self, url: URL, budget: _Budget, *, is_picture: bool) -> bytes | URL:
        """Return the body, or the URL that the answer points to."""
        assert url.raw_host is not None
        assert url.port is not None
        host = self._host(url.raw_host)
        async with _refusals():
            await self._resolver.checked(url.raw_host, url.port)
            if is_picture and self._config.robots:
                host.slow_down(await self._robots.check(url))
            async with host.place(), budget.spent():
                return await self._exchange(url, host, is_picture=is_picture)

    def _host(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(
                concurrency=self._config.host_concurrency,
                requests_per_s=self._config.host_requests_per_s,
            )
        return host

    async def _exchange(self, url: URL, host: Host, *, is_picture: bool) -> bytes | URL:
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status in _REDIRECTS:
                return _target(url, response)
            if not 200 <= response.status < 300:
                raise _refused(response, host)
            if is_picture and self._config.header_opt_outs:
                opt_outs.check(response.headers.getall("X-Robots-Tag", []))
            _check_coding(response)
            try:
                if not is_picture:
                    return await self._beginning(response)
                return await self._body(response)
            except Refusal:
                response.close()  # the rest is not waited for
                raise

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the body, counting; of large bodies only a few at a time, so that memory has a bound."""
        limit = self._config.max_body_bytes
        if (response.content_length or 0) > limit:
            raise Refusal("body_too_large", f"announces {response.content_length} bytes")
        chunks: list[bytes] = []
        size = 0
        is_large = False
        try:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise Refusal("body_too_large", f"has more than {limit} bytes")
                chunks.append(chunk)
                if not is_large and size > _LARGE_BODY_BYTES:
                    await self._large.acquire()
                    is_large = True
            return b"".join(chunks)
        finally:
            if is_large:
                self._large.release()

    async def _beginning(self, response: aiohttp.ClientResponse) -> bytes:
        """Read as much as is looked at of a robots.txt, however long it is."""
        body = b""
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) >= robots.MAX_BYTES:
                response.close()
                break
        return body[: robots.MAX_BYTES]

    async def _get_robots(self, url: URL) -> bytes:
        budget = _Budget(self._config.deadline_s)
        return await self._follow(url, budget, Trace(), is_picture=False)


def user_agent(contact: str | None) -> str:
    """Return the honest name that hosts see."""
    name = f"{PRODUCT_TOKEN}/{version('neuclip')}"
    return f"{name} (+{contact})" if contact else name


@asynccontextmanager
async def _refusals() -> AsyncGenerator[None]:
    """Turn what the HTTP client raises into a Refusal."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        causes = (error, error.__cause__)
        for kind, reason in _ERRORS:
            if any(isinstance(cause, kind) for cause in causes):
                raise Refusal(reason, f"{type(error).__name__}: {error}") from error
        raise


async def _sha256(body: bytes) -> str:
    if len(body) > _LONG_TO_HASH_BYTES:
        return (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()
    return hashlib.sha256(body).hexdigest()


def _check_coding(response: aiohttp.ClientResponse) -> None:
    """Refuse a body in a coding that was not asked for: nothing is decompressed here.

    Raises: Refusal: `bad_response`.
    """
    for name, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        values = ",".join(response.headers.getall(name, []))
        found = {value.strip().lower() for value in values.split(",")} - {"", plain}
        if found:
            response.close()
            raise Refusal("bad_response", f"{name} {values!r} was not asked for")


def _target(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if not location:
        raise Refusal("redirect", f"HTTP {response.status} without a Location")
    return target(url, location)


def _refused(response: aiohttp.ClientResponse, host: Host) -> Refusal:
    status = response.status
    reason = _NAMED_STATUS.get(status) or {3: "redirect", 4: "http_4xx", 5: "http_5xx"}.get(
        status // 100, "bad_response"
    )
    wait_s = retry_after_s(response.headers.get("Retry-After"))
    if wait_s is not None and status in (429, 503):
        host.be_quiet(wait_s)
    return Refusal(reason, f"HTTP {status} {response.reason or ''}".strip(), wait_s=wait_s)
