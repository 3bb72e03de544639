"""When a server may be asked, by how it has answered so far; and when it is no longer waited for."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import random
from threading import Event

from neuclip.foundation.errors import EndpointError
from neuclip.generation.config import Endpoint

log = logging.getLogger(__name__)

_FIRST_S, _LONGEST_S = 0.5, 30.0
_FIRST_CONTACT_S = 20.0
"""How long a server is waited for that was never reached: its address is probably wrong."""
_TELL_EVERY_S = 60.0
_LOOK_S = 1.0
"""How often a request that waits looks whether it may go sooner."""


def _back_off_s(failures: int) -> float:
    """Return how long to wait after so many failures, 1 or more."""
    return min(_LONGEST_S, _FIRST_S * 2.0 ** min(failures - 1, 30)) * (0.5 + random())  # noqa: S311  # only spreads load


class Patience:
    """Lets requests to one server go; used inside a running event loop.

    A server is down when as many requests in a row have failed as are in the air at once. Then they go one at a time,
    with longer and longer pauses, until one is answered.

    Args:
        address: as errors name the server.
        was_reached: is set once the server has got a request.
    """

    def __init__(self, address: str, config: Endpoint, was_reached: Event) -> None:
        self._address, self._config, self._was_reached = address, config, was_reached
        self._probing = asyncio.Lock()
        self._quiet_until = self._next_probe_at = self._answered_at = 0.0
        self._told_at = -math.inf
        self._failures = 0
        self._failing_since: float | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait until a request may go; the block is the request."""
        if self._is_down:
            async with self._probing:
                await self._quiet()
                if self._is_down:
                    yield
                    return
        await self._quiet()
        yield

    def answered(self) -> None:
        """Note that the server does its work."""
        if self._is_down:
            log.warning("%s answers again", self._address)
            self._next_probe_at, self._told_at = 0.0, -math.inf
        self._answered_at = self.now()
        self._failures, self._failing_since = 0, None

    def asked_to_wait(self, wait_s: float) -> None:
        """Let no request go for some time.

        Raises: EndpointError: if that is longer than the server may answer nothing.
        """
        if wait_s > self._config.patience_s:
            raise EndpointError(
                f"{self._address} asks to be left alone for {wait_s:.0f} s, which is more than "
                f"patience_s={self._config.patience_s:g}; run again later, or raise patience_s: "
                "the answers so far are kept"
            )
        self._quiet_until = max(self._quiet_until, self.now() + wait_s)

    def failed(self, began: float, why: str, failures: int) -> float:
        """Note that a request has failed for a reason that may pass.

        Args:
            began: when the request was sent.
            failures: requests of the same question that have failed, this one included.
        Returns: seconds that this question should wait before its next turn.
        Raises: EndpointError: if nothing was answered for too long.
        """
        now = self.now()
        self._failures += 1
        if self._failing_since is None:
            self._failing_since = max(began, self._answered_at)
        failing_s, patience_s = now - self._failing_since, self._config.patience_s
        if not self._was_reached.is_set():
            patience_s = min(patience_s, _FIRST_CONTACT_S)
        left_s = patience_s - failing_s
        if left_s <= 0:
            self._next_probe_at = math.inf
            raise EndpointError(self._given_up(failing_s, why))
        if not self._is_down:
            return _back_off_s(failures)
        pause_s = _back_off_s(self._failures - self._config.concurrency + 1)
        self._next_probe_at = now + min(pause_s, left_s)
        if now >= self._told_at + _TELL_EVERY_S:
            self._told_at = now
            log.warning(
                "%s has answered nothing for %.0f s, the last of %d requests: %s; it is waited for %.0f s more",
                *(self._address, failing_s, self._failures, why, left_s),
            )
        return 0.0

    @staticmethod
    def now() -> float:
        """Return the seconds of the event loop's clock."""
        return asyncio.get_running_loop().time()

    @property
    def _is_down(self) -> bool:
        return self._failures >= self._config.concurrency

    async def _quiet(self) -> None:
        while (wait_s := max(self._quiet_until, self._next_probe_at) - self.now()) > 0:
            await asyncio.sleep(min(wait_s, _LOOK_S))

    def _given_up(self, failing_s: float, why: str) -> str:
        advice = (
            "see to the server"
            if self._was_reached.is_set()
            else "start the server or correct `address`"
        )
        return (
            f"{self._address} has answered nothing for {failing_s:.0f} s: {self._failures} requests in a row failed, "
            f"the last with: {why}; {advice}, then run again: the answers so far are kept"
        )
