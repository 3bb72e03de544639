"""Processes that read untrusted bytes for the guard: as many as there are cores, each killed when it takes too long.

Quick ones judge everything at first. What takes them longer than anything usual, and large pictures that have to be
decoded, go to slow ones, which yield the cores to all others. So what is slow only ever waits for what is slow.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import orjson

from neuclip.egress.config import EgressConfig
from neuclip.egress.judge import ANSWER, ENDED, PICTURE, QUESTION, READY, RULES
from neuclip.egress.refusal import Refusal

MOST_JUDGES = 8
"""One judges some thousand pictures a second, which is more than the guard fetches."""

Within = Callable[[], AbstractAsyncContextManager[None]]
"""Makes a block that is ended, with TimeoutError, when the time for a URL is over."""
Answer = tuple[dict[str, Any], bytearray]


class Judges:
    """Answers questions about bytes; made and used inside a running event loop.

    Args:
        quick: number of quick processes, by default that of the cores, at most MOST_JUDGES.
    """

    def __init__(self, config: EgressConfig, quick: int | None = None) -> None:
        quick = quick or min(len(os.sched_getaffinity(0)), MOST_JUDGES)
        words = config.model_dump_json()
        self._quick = _Lane(quick, words, "quick")
        self._slow = _Lane(max(1, quick // 2), words, "slow")

    async def started(self) -> None:
        """Wait until all can be asked."""
        await asyncio.gather(self._quick.started(), self._slow.started())

    async def close(self) -> None:
        """End all processes."""
        await asyncio.gather(self._quick.close(), self._slow.close())

    async def picture(self, body: bytes, within: Within = nullcontext) -> bytes | bytearray:
        """Return the bytes of a picture that may be decoded, of one that is not plain as a plain one.

        Args:
            within: bounds the time in which the body is read; waiting for a quick process does not count.
        Raises: Refusal. TimeoutError
        """
        try:
            said, made = await self._quick.ask(PICTURE, body, within)
        except _EndedError as end:
            if not end.is_overrun:
                raise end.refusal() from end
            said, made = {"is": "large"}, bytearray()
        if said.get("is") == "large":
            try:
                async with within():
                    said, made = await self._slow.ask(PICTURE, body)
            except _EndedError as end:
                raise end.refusal() from end
        if "reason" in said:
            raise Refusal(said["reason"], said["detail"])
        return body if said["is"] == "plain" else made

    async def allows(self, rules: bytes, url: str) -> tuple[bool, float]:
        """Tell whether a robots.txt lets us fetch a URL, and the seconds that it wants between requests.

        Raises: Refusal: `robots_unreachable` if it cannot be read.
        """
        try:
            said, _ = await self._quick.ask(RULES, rules + b"\n" + url.encode())
        except _EndedError as end:
            raise Refusal("robots_unreachable", end.refusal().detail) from end
        if "reason" in said:
            raise Refusal("robots_unreachable", said["detail"])
        return said["is_allowed"], said["crawl_delay_s"]


class _EndedError(Exception):
    """A process ended over a question."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.is_overrun = code == -signal.SIGPROF
        self._how = signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def refusal(self) -> Refusal:
        """Say it of the URL whose bytes were read."""
        if self.is_overrun:
            return Refusal("undecodable", "takes more processor time to read than such bytes may")
        return Refusal("undecodable", f"reading it ended the process that read it: {self._how}")


class _Lane:
    """Some processes of one kind, each asked one question at a time."""

    def __init__(self, size: int, *words: str) -> None:
        self._words = words
        self._all = {_Judge(words) for _ in range(size)}
        self._ending = set[asyncio.Task[None]]()
        self._idle: asyncio.LifoQueue[_Judge] = asyncio.LifoQueue()
        for judge in self._all:
            self._idle.put_nowait(judge)

    async def started(self) -> None:
        await asyncio.gather(*(judge.started() for judge in self._all))

    async def ask(self, kind: bytes, content: bytes, within: Within = nullcontext) -> Answer:
        """Ask the next process that is idle; one that does not answer in time is killed and replaced.

        A process that ends, but not at its limit of time, may have been ended by somebody else, a machine short of
        memory for example: only what ends two of them is to blame.

        Raises: _EndedError
        """
        try:
            return await self._ask(kind, content, within)
        except _EndedError as end:
            if end.is_overrun:
                raise
        return await self._ask(kind, content, within)

    async def _ask(self, kind: bytes, content: bytes, within: Within) -> Answer:
        judge = await self._idle.get()
        try:
            await judge.started()
            async with within():
                return await judge.answer(kind, content)
        finally:
            if judge.is_lost:
                self._all.remove(judge)
                self._ending.add(ending := asyncio.create_task(judge.end()))
                ending.add_done_callback(self._ending.discard)
                judge = _Judge(self._words)
                self._all.add(judge)
            self._idle.put_nowait(judge)

    async def close(self) -> None:
        await asyncio.gather(*(judge.end() for judge in self._all), *self._ending)


class _Judge:
    """One process."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.is_lost = False
        """It is in the middle of a question, or did not start."""
        self._wire, theirs = socket.socketpair()
        self._wire.settimeout(0)
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.create_task(self._start(words, theirs))

    async def started(self) -> None:
        """Wait until it can be asked."""
        await asyncio.shield(self._starting)

    async def answer(self, kind: bytes, content: bytes) -> Answer:
        """Put one question.

        Raises: _EndedError: if what reads ended over it.
        """
        self.is_lost = True
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._wire, QUESTION.pack(kind, len(content)))
            await loop.sock_sendall(self._wire, content)
            line, size = ANSWER.unpack(await self._receive(ANSWER.size))
            said, made = orjson.loads(await self._receive(line)), await self._receive(size)
        except (OSError, EOFError) as error:
            assert self._process is not None
            raise _EndedError(await self._process.wait()) from error
        self.is_lost = False
        if ENDED in said:
            raise _EndedError(said[ENDED])
        return said, made

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._starting.cancel()
        await asyncio.wait([self._starting])
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        self._wire.close()
        if self._process is not None:
            await self._process.wait()

    async def _start(self, words: tuple[str, ...], theirs: socket.socket) -> None:
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "neuclip.egress.judge", *words),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                )
            await self._receive(len(READY))
        except (OSError, EOFError) as error:
            self.is_lost = True
            raise RuntimeError("a process that reads pictures did not start") from error

    async def _receive(self, size: int) -> bytearray:
        loop, content = asyncio.get_running_loop(), bytearray(size)
        rest = memoryview(content)
        while rest:
            received = await loop.sock_recv_into(self._wire, rest)
            if not received:
                raise EOFError
            rest = rest[received:]
        return content
