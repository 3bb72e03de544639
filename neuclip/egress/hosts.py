"""Gentleness: at most so many requests at a time and a second to one host, and none while it asks for quiet."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from neuclip.egress.refusal import Refusal

LONGEST_QUIET_S = 120.0
"""A host that asks for a longer quiet is given up for this time; its URLs fail with http_429."""


class Host:
    """The limits of one host, as seen by one worker.

    Args:
        concurrency: requests at a time.
        requests_per_s: 0 is no limit.
    """

    def __init__(self, *, concurrency: int, requests_per_s: float) -> None:
        self._places = asyncio.Semaphore(concurrency)
        self._gap_s = 1 / requests_per_s if requests_per_s else 0.0
        self._next_at = 0.0
        self._quiet_until = 0.0

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """Wait for a place among the requests to this host, and hold it for the block.

        Raises: Refusal: `http_429` if the host asked to be left alone for longer than anybody waits.
        """
        self._check_quiet()
        async with self._places:
            self._check_quiet()
            now = time.monotonic()
            starts_at = max(now, self._next_at, self._quiet_until)
            self._next_at = starts_at + self._gap_s
            if starts_at > now:
                await asyncio.sleep(starts_at - now)
            yield

    def be_quiet(self, seconds: float) -> None:
        """Ask nothing of this host for a while."""
        self._quiet_until = max(self._quiet_until, time.monotonic() + seconds)

    def slow_down(self, crawl_delay_s: float) -> None:
        """Leave at least this time between requests, as its robots.txt asks."""
        self._gap_s = max(self._gap_s, crawl_delay_s)

    def _check_quiet(self) -> None:
        left_s = self._quiet_until - time.monotonic()
        if left_s > LONGEST_QUIET_S:
            raise Refusal("http_429", f"the host asked for {left_s:.0f} s of quiet", wait_s=left_s)
