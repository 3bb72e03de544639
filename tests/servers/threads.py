"""An event loop in a thread of its own: what the servers of the tests run on."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")

_END_S = 10
_SETTLE_S = 0.05
"""Connections that were closed let go of their sockets a few turns of the loop later."""


class LoopThread:
    """Runs coroutines while the block lasts; whatever still runs at its end is cancelled."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_END_S)
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run one in the thread; return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(_END_S)

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(_SETTLE_S)
