"""HTTP written by hand, byte by byte, since no library would send most of what the hostile web sends."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

_ENDLESS_BYTES = 100_000_000
"""What an endless answer sends before it gives up, so that a client without a limit fails a test, not the machine."""
_NEVER_S = 3_600.0
_END_OF_HEAD = b"\r\n\r\n"
_HEAD_LIMIT_BYTES = 1_000_000


@dataclass(frozen=True)
class Request:
    """What was asked; `number` counts the requests for the same path of the same site from 1."""

    host: str
    """Name without the port, as the Host header has it."""
    path: str
    """With the query."""
    headers: Mapping[str, str]
    """By names in lower case."""
    number: int = 0


class Reply:
    """The connection, as an answer writes to it.

    Args:
        fill: puts port numbers into a text.
        on_sent: is told how many bytes are about to be sent.
    """

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        *,
        fill: Callable[[str], str],
        on_sent: Callable[[int], None],
    ) -> None:
        self._writer = writer
        self._on_sent = on_sent
        self.fill = fill

    async def send(self, content: bytes) -> None:
        self._on_sent(len(content))
        self._writer.write(content)
        await self._writer.drain()

    def hang_up(self) -> None:
        """Close the connection after what was sent."""
        self._writer.close()

    def reset(self) -> None:
        """Tear the connection down, so that the other side gets an error."""
        at_once = struct.pack("ii", 1, 0)
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self._writer.transport.abort()


Answer = Callable[[Request, Reply], Awaitable[None]]
Field = tuple[str, object]


class NoHttp(Exception):  # noqa: N818  # it is no error of ours
    """The visitor speaks something else, TLS probably."""


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request without a body.

    Raises: asyncio.IncompleteReadError: if there is none. NoHttp
    """
    first = await reader.readexactly(1)
    if not first.isalpha():
        await reader.read(_HEAD_LIMIT_BYTES)
        raise NoHttp
    rest = await reader.readuntil(_END_OF_HEAD)
    lines = (first + rest).decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    host = headers.get("host", "").lower()
    return Request(host.rpartition(":")[0] or host, lines[0].split(" ")[1], headers)


async def start(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None = None,
) -> asyncio.Server:
    """Listen on an address; give each connection to a coroutine, and close it at the coroutine's end."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await connected(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # the visitor went away, or sent too much
        except asyncio.CancelledError:
            return  # the server ends
        except NoHttp:
            writer.write(whole(b"", status=400))
            writer.close()
        finally:
            if not writer.is_closing():
                writer.transport.abort()

    return await asyncio.start_server(
        connection, host, port, limit=_HEAD_LIMIT_BYTES, backlog=256, ssl=context
    )


def head(*fields: Field, status: int = 200) -> bytes:
    """Write a status line and header fields."""
    lines = [f"HTTP/1.1 {status} What it is", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode("utf-8") + _END_OF_HEAD


def whole(body: bytes, *fields: Field, status: int = 200, kind: str = "image/jpeg") -> bytes:
    """Write an answer as an honest server does."""
    length = ("Content-Length", len(body))
    return head(("Content-Type", kind), length, *fields, status=status) + body


def in_chunks(body: bytes, *fields: Field) -> bytes:
    """Write an answer whose length only its end tells."""
    halves = (body[: len(body) // 2], body[len(body) // 2 :])
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(half), half) for half in halves)
    return head(("Transfer-Encoding", "chunked"), *fields) + chunks + b"0\r\n\r\n"


def keeps(content: bytes) -> Answer:
    """Send bytes as they are and wait for the next request."""

    async def answer(_: Request, reply: Reply) -> None:
        await reply.send(content)

    return answer


def plain(body: bytes, *fields: Field, status: int = 200, kind: str = "image/jpeg") -> Answer:
    """Answer as an honest server does."""
    return keeps(whole(body, *fields, status=status, kind=kind))


def says(status: int, *fields: Field) -> Answer:
    """Answer with a status and a text that nobody needs."""
    return plain(b"what it is\n", *fields, status=status, kind="text/plain")


def leads_to(location: str, status: int = 302) -> Answer:
    """Redirect; the location may hold ports in curly brackets."""

    async def answer(request: Request, reply: Reply) -> None:
        await says(status, ("Location", reply.fill(location)))(request, reply)

    return answer


def hangs_up_after(*parts: bytes, pause_s: float = 0.0) -> Answer:
    """Send parts as they are, a pause after each, and close the connection."""

    async def answer(_: Request, reply: Reply) -> None:
        for part in parts:
            await reply.send(part)
            await asyncio.sleep(pause_s)
        reply.hang_up()

    return answer


def falls_silent_after(content: bytes) -> Answer:
    """Send bytes, and then nothing with the connection open."""

    async def answer(_: Request, reply: Reply) -> None:
        await reply.send(content)
        await asyncio.sleep(_NEVER_S)

    return answer


def never_ends(start: bytes, piece: bytes, *, every_s: float = 0.0) -> Answer:
    """Send a piece again and again."""

    async def answer(_: Request, reply: Reply) -> None:
        await reply.send(start)
        for _number in range(_ENDLESS_BYTES // len(piece)):
            await reply.send(piece)
            await asyncio.sleep(every_s)
        reply.hang_up()

    return answer


def resets_after(content: bytes) -> Answer:
    """Send bytes and tear the connection down."""

    async def answer(_: Request, reply: Reply) -> None:
        await reply.send(content)
        reply.reset()

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Give the first request the first answer and so on; the last is given again and again."""

    async def answer(request: Request, reply: Reply) -> None:
        await answers[min(request.number, len(answers)) - 1](request, reply)

    return answer
