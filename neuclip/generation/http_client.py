"""HTTP as a model's server is asked over it: each exchange bounded in time and bytes, all of them in a thread."""

import asyncio
import io
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any, NamedTuple, Self

import aiohttp
from aiohttp import http_exceptions
from pydantic import SecretStr
from yarl import URL

from neuclip.foundation.retry_after import retry_after_s

MOST_BYTES = 1 << 20
"""Of an answer; the longest that may be asked for has a hundred thousand."""
_LARGE_BYTES = 1 << 18
"""Larger bodies are written piece by piece, so that others are written between."""
_CONNECT_S = 10.0
_IDLE_S = 4.0
"""Servers close a connection that idles for 5 s (uvicorn, which vLLM runs on): it must not be written to just then."""


class FailedError(Exception):
    """A request failed for a reason that may pass.

    Args:
        is_try: the server may have begun to answer it.
    """

    def __init__(self, why: str, *, is_try: bool = True) -> None:
        super().__init__(why)
        self.is_try = is_try


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    is_whole: bool
    """False for a body of more than MOST_BYTES, whose rest was not waited for."""
    wait_s: float | None
    """How long the server asks to be left alone."""
    location: str
    """Where it redirects to."""


class HttpClient:
    """Holds the connections to one server; made and used inside a running event loop.

    Args:
        key: is sent along as a bearer token.
        deadline_s: from a request to the last byte of its answer.
    """

    def __init__(self, key: SecretStr | None, deadline_s: float) -> None:
        bearer = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._deadline_s = deadline_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
                **bearer,
            },
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def exchange(self, method: str, url: URL, body: bytes | None = None) -> Answer:
        """Send a request and return the answer, whatever it says; no redirect is followed.

        Raises: FailedError
        """
        data = io.BytesIO(body) if body and len(body) > _LARGE_BYTES else body
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._session.request(method, url, data=data, allow_redirects=False) as response,
            ):
                return await _read(response)
        except aiohttp.ClientConnectorError as error:
            raise FailedError(f"no connection: {error.os_error}", is_try=False) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise FailedError(f"no connection within {_CONNECT_S:g} s", is_try=False) from error
        except TimeoutError as error:
            raise FailedError(f"no answer within deadline_s={self._deadline_s:g}") from error
        except (aiohttp.ClientError, http_exceptions.BadHttpMessage, OSError) as error:
            raise FailedError(f"the answer broke off: {error}") from error


async def _read(response: aiohttp.ClientResponse) -> Answer:
    chunks: list[bytes] = []
    size, is_whole = 0, (response.content_length or 0) <= MOST_BYTES
    while is_whole and (chunk := await response.content.readany()):
        chunks.append(chunk)
        size += len(chunk)
        is_whole = size <= MOST_BYTES
    if not is_whole:
        response.close()
    return Answer(
        response.status,
        b"".join(chunks),
        is_whole,
        wait_s=retry_after_s(response.headers.get("Retry-After")),
        location=response.headers.get("Location", ""),
    )


Work = Callable[[HttpClient], Coroutine[Any, Any, None]]
"""What is done in the thread; it raises nothing."""


@contextmanager
def http_thread(key: SecretStr | None, deadline_s: float) -> Generator[Callable[[Work], None]]:
    """Give a function that starts work in a thread with an event loop and an HttpClient, see there.

    At the end of the block, whatever ends it, work that is not done is cancelled, all connections are closed, and the
    thread has ended.
    """
    started: Future[tuple[Callable[[Work], None], Callable[[], object]]] = Future()

    async def serve() -> None:
        async with HttpClient(key, deadline_s) as client, asyncio.TaskGroup() as group:
            loop, itself = asyncio.get_running_loop(), asyncio.current_task()
            assert itself is not None

            def start(work: Work) -> None:
                loop.call_soon_threadsafe(lambda: group.create_task(work(client)))

            started.set_result((start, lambda: loop.call_soon_threadsafe(itself.cancel)))
            await loop.create_future()  # until it is cancelled

    def run() -> None:
        try:
            with suppress(asyncio.CancelledError):
                asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = Thread(target=run, name="http", daemon=True)
    thread.start()
    try:
        yield started.result()[0]
    finally:
        started.result()[1]()
        thread.join()
