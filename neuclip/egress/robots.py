"""robots.txt: fetched once a host, read by protego in a process of its own, obeyed."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from cachetools import LRUCache
from yarl import URL

from neuclip.egress.refusal import Refusal

MAX_BYTES = 512_000
"""What is read of a robots.txt (RFC 9309 asks for at least 500 KiB)."""

_HOSTS_KEPT = 20_000
_KEPT_S, _SILENCE_KEPT_S = 24 * 3600.0, 300.0
"""How long rules count (RFC 9309, 2.4), and how long a host that did not answer is not asked again."""
_LONGEST_CRAWL_DELAY_S = 30.0
_UNREACHABLE = frozenset(
    {"http_5xx", "http_429", "timeout", "truncated", "bad_response", "bad_port"}
)
_NOTHING_THERE = frozenset({"private_address", "tls", "dns", "connection"})
"""Reasons that the picture itself would give."""

Get = Callable[[URL], Awaitable[bytes]]
Allows = Callable[[bytes, str], Awaitable[tuple[bool, float]]]


class Robots:
    """Answers of hosts, asked once, however many wait, and kept for a while.

    Args:
        get: fetches a URL; its Refusal tells what a host without rules answers.
        allows: reads rules: whether they allow a URL, and how many seconds they want between requests.
    """

    def __init__(self, get: Get, allows: Allows) -> None:
        self._get, self._allows = get, allows
        self._rules = LRUCache[URL, tuple[float, asyncio.Future[bytes]]](_HOSTS_KEPT)

    async def check(self, url: URL) -> float:
        """Return the crawl delay of the URL's host in seconds, 0 if it names none.

        Raises: Refusal: `robots_disallow`, or `robots_unreachable` if the host does not say (RFC 9309, 2.3.1.4).
        """
        origin = url.origin()
        rules = await asyncio.shield(self._asked(origin))
        if not rules.strip():
            return 0.0
        try:
            is_allowed, crawl_delay_s = await self._allows(rules, str(url))
        except Refusal as refusal:
            self._forget(origin, refusal)
            raise
        if not is_allowed:
            raise Refusal("robots_disallow", f"{origin}/robots.txt disallows it")
        return min(crawl_delay_s, _LONGEST_CRAWL_DELAY_S)

    def _forget(self, origin: URL, refusal: Refusal) -> None:
        """Let rules that could not be read cost their reader's time once, and not for each URL of their host."""
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(refusal)
        failed.exception()  # somebody has looked at it
        self._rules[origin] = time.monotonic(), failed

    def _asked(self, origin: URL) -> asyncio.Future[bytes]:
        """Return the question that is under way, or whose answer still counts; else ask."""
        at, task = self._rules.get(origin, (0.0, None))
        if task is not None and not task.done():
            return task
        if task is not None:
            kept_s = _SILENCE_KEPT_S if task.exception() else _KEPT_S
            if time.monotonic() - at < kept_s:
                return task
        task = asyncio.create_task(self._read(origin / "robots.txt"))
        self._rules[origin] = time.monotonic(), task
        return task

    async def _read(self, url: URL) -> bytes:
        try:
            rules = await self._get(url)
        except Refusal as refusal:
            if refusal.reason in _UNREACHABLE:
                raise Refusal("robots_unreachable", f"{url}: {refusal}") from refusal
            if refusal.reason in _NOTHING_THERE:
                raise
            return b""  # there is none, so nothing is disallowed
        if rules.strip():
            await self._allows(
                rules, str(url)
            )  # what cannot be read is found out once, not by every URL
        return rules
