"""Fifty bodies that want to stop whoever reads them, and five hundred pictures: the same web for a test and a bench."""

import functools
import gzip
import itertools
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from neuclip.egress.config import EgressConfig
from neuclip.egress.guard import guarded_url, running_guard
from tests.servers import odd_pictures
from tests.servers.hostile import bombs_of
from tests.servers.odd_pictures import busy_picture, written
from tests.servers.raw_http import Answer, Reply, plain, read_request, says, start
from tests.servers.threads import LoopThread

NUM_GOOD, NUM_HOSTILE = 500, 50
THREADS = 32
HOST = "127.0.0.1"
PACKED = "packed-said"
_BOMB_BYTES, _PAGES_BYTES = 500_000, 2_500_000
"""The second is the size of the file of pages that was judged for half a minute."""


@dataclass(frozen=True)
class Outcome:
    """What became of a crowd of URLs.

    Args:
        statuses: HTTP status by path.
        good_s: seconds until the last of the good ones was there.
    """

    statuses: dict[str, int]
    good_s: float


@functools.cache
def good() -> dict[str, bytes]:
    """Pictures of some 50 kB; one in twenty lies on its side, as those of telephones do."""
    upright = written(busy_picture().resize((512, 384)), "JPEG", quality=85)
    turned = odd_pictures.with_segment(upright, 0xE1, b"Exif\0\0" + odd_pictures.exif_turned())
    return {f"/good/{n}.jpg": turned if n % 20 == 0 else upright for n in range(NUM_GOOD)}


@functools.cache
def hostile() -> dict[str, bytes]:
    """Every kind of bomb, again and again, until there are enough."""
    kinds = bombs_of(_BOMB_BYTES) | {
        "pages.tiff": odd_pictures.tiff_of_pages(_PAGES_BYTES),
        PACKED: gzip.compress(odd_pictures.jpeg_of_padding(48_000_000)),
        "scans.jpg": odd_pictures.jpeg_of_many_scans(),
        "real.png": odd_pictures.real_png_bomb(),
        "profile.png": odd_pictures.png_with_profile_bomb(),
        "frames.gif": odd_pictures.gif_of_frames(_PAGES_BYTES),
        "lines.bmp": odd_pictures.bmp_of_line_ends(490_000),
    }
    numbered = zip(range(NUM_HOSTILE), itertools.cycle(kinds.items()), strict=False)
    return {f"/hostile/{n}/{name}": body for n, (name, body) in numbered}


@functools.cache
def dull() -> dict[str, bytes]:
    """As many bodies of the same sizes that no reader looks at twice: what the bytes of the hostile ones cost."""
    return {f"/dull/{n}": bytes(len(body)) for n, body in enumerate(hostile().values())}


def _answers() -> dict[str, Answer]:
    packed = {
        path: plain(body, ("Content-Encoding", "gzip"))
        for path, body in hostile().items()
        if path.endswith(PACKED)
    }
    return {path: plain(body) for path, body in (good() | hostile() | dull()).items()} | packed


@contextmanager
def serving() -> Generator[str]:
    """Serve all of them; yield the URL."""
    answers = _answers()

    async def connected(reader, writer) -> None:
        while not writer.is_closing():
            request = await read_request(reader)
            reply = Reply(writer, fill=str, on_sent=lambda size: None)
            await (answers.get(request.path) or says(404))(request, reply)

    with LoopThread("crowd") as thread:
        server = thread.run(start(connected, HOST, 0))
        try:
            yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        finally:
            thread.run(_close(server))


async def _close(server) -> None:
    server.close()


def among(others: Iterable[str]) -> list[str]:
    """Return the paths of the good ones, and of others evenly among them, the first at the very beginning."""
    every = NUM_GOOD // NUM_HOSTILE
    left = iter(others)
    found: list[str] = []
    for number, path in enumerate(good()):
        found += itertools.islice(left, number % every == 0)
        found.append(path)
    return found


def visit(paths: list[str], url: str, folder: Path) -> Outcome:
    """Ask a guard of their own for all paths, in their order, by many threads."""
    config = EgressConfig(allow_hosts=[HOST], host_concurrency=256, host_requests_per_s=0)
    folder.mkdir()
    with running_guard(config, folder / "journal.jsonl") as guard:
        opener = build_opener(ProxyHandler({"http": guard.proxy_url}))
        last_good: list[float] = []

        def ask(path: str) -> int:
            try:
                with opener.open(
                    guarded_url(path.replace("/", "-"), url + path), timeout=600
                ) as reply:
                    reply.read()
                    status = reply.status
            except HTTPError as error:
                error.close()
                status = error.code
            if path.startswith("/good"):
                last_good.append(time.monotonic())
            return status

        began = time.monotonic()
        with ThreadPoolExecutor(THREADS + NUM_HOSTILE) as pool:
            statuses = dict(zip(paths, pool.map(ask, paths), strict=True))
        return Outcome(statuses, max(last_good) - began)
