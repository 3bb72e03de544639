"""A web on loopback that does to its visitors what the real one does, and a canary that nobody may visit.

Sites are names below `.test`. One port serves all that speak in the clear and tells them apart by the Host header; each
kind of certificate has a port of its own. What becomes of each answer is said in tests/egress/cases.py.
"""

import asyncio
import functools
import gzip
import os
import shutil
import socket
import ssl
import subprocess
import threading
import zlib
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image

from tests.servers import odd_pictures
from tests.servers.certificates import make_certificates
from tests.servers.dns import (
    GARBAGE,
    REFUSES,
    SERVER_FAILS,
    SILENT,
    NameServer,
    Table,
    addresses,
    name_server,
)
from tests.servers.odd_pictures import busy_picture, quadrants, written
from tests.servers.raw_http import (
    Answer,
    Reply,
    falls_silent_after,
    hangs_up_after,
    head,
    in_chunks,
    in_turn,
    keeps,
    leads_to,
    never_ends,
    plain,
    read_request,
    resets_after,
    says,
    start,
    whole,
)
from tests.servers.threads import LoopThread

HOST = "127.0.0.1"
DOMAIN = "test"
PICTURE = odd_pictures.good_jpeg()
LONG_PATH = "/" + "long" * 500 + ".jpg"
MAX_BODY_BYTES = 2_000_000
"""The limit that the answers are made for: bodies and bombs are above or below it by far."""

PUBLIC = f"192.52.193.{1 + os.getpid() % 254}"
"""Counts as public, and no machine has it: one of the relays of a protocol that is gone (RFC 7450).

As long as the web is up it leads to this machine's loopback, so that no test asks anybody else.
"""

_OTHER_PORTS = ("tls", "another_host", "expired", "stranger", "silent", "closed")
"""Ports of the host tls.test."""

_CANARY_HOSTS = ("127.0.0.1", "127.0.0.2", "::1")
_LENGTH, _TYPE, _LOCATION = "Content-Length", "Content-Type", "Location"
_CODING, _OPT_OUT, _RETRY = "Content-Encoding", "X-Robots-Tag", "Retry-After"

ABSURD_WAITS = (
    "-5",
    "+5",
    "1e9",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "1_0",
    "\u0663\u0660",
    "\uff11\uff10",
    "9" * 12,
    "9" * 400,
    "9" * 5_000,
    "",
    ";",
    "0, 0",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Fri, 31 Dec 99999 23:59:59 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Mon, 00 Jan 0000 00:00:00 GMT",
    "Thu, 31 Feb 2030 25:61:61 GMT",
    "Thu, 01 Jan 2030 00:00:00 +99999999999",
    "Thu, 01 Jan 2030 00:00:00 -0000",
    "Thu, 01 Jan 1 00:00:00 +2359",
    "Thu,",
    "1 2 3 4 5 6 7",
)
"""Of Retry-After: nothing that anybody should wait for, or fail over."""
STRANGE_CODINGS = (
    "gzip",
    "GZIP",
    "x-gzip",
    "deflate",
    "br",
    "zstd",
    "compress",
    "gzip, gzip",
    "identity, gzip",
)
ABSURD_RULES = {
    name: f"User-agent: *\n{line}\nDisallow: /private/\n".encode()
    for name, line in {
        "delay-inf": "Crawl-delay: inf",
        "delay-nan": "Crawl-delay: nan",
        "delay-negative": "Crawl-delay: -7",
        "delay-huge": "Crawl-delay: " + "9" * 5_000,
        "delay-exponent": "Crawl-delay: 1e999",
        "delay-word": "Crawl-delay: later",
        "delay-arabic": "Crawl-delay: -\u0663",
        "rate-zero": "Request-rate: 1/0",
        "rate-huge": "Request-rate: 1/" + "9" * 5_000,
        "hours": "Visit-time: 9999-9999",
        "page": "Sitemap: " + "a" * 50_000,
    }.items()
}

Answers = dict[str, Answer]


class Counts:
    """How often a path was asked for, and how many bytes it sent; asked and added to in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._sent: Counter[tuple[str, str]] = Counter()

    def add_request(self, site: str, path: str) -> int:
        with self._lock:
            self._requests[site, path] += 1
            return self._requests[site, path]

    def add_sent(self, site: str, path: str, num_bytes: int) -> None:
        with self._lock:
            self._sent[site, path] += num_bytes

    def requests(self, site: str, path: str) -> int:
        with self._lock:
            return self._requests[site, path]

    def sent_bytes(self, site: str, path: str) -> int:
        with self._lock:
            return self._sent[site, path]


class Canary:
    """Stands for an internal service: a port of this machine's own addresses where every connection is one too many."""

    def __init__(self) -> None:
        self.port = 0
        self.visits: list[str] = []
        """What connected, or the first line of what it asked."""
        self.servers: list[asyncio.Server] = []

    async def listen(self) -> None:
        for host in _CANARY_HOSTS:
            try:
                server = await start(self._connected, host, self.port)
            except OSError:
                if host != "::1":  # some machines have no IPv6
                    raise
                continue
            self.port = server.sockets[0].getsockname()[1]
            self.servers.append(server)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = len(self.visits)
        self.visits.append("a connection")
        self.visits[place] = f"{await reader.readline()!r}"
        writer.write(whole(PICTURE))
        await writer.drain()
        writer.close()


class Web:
    """All sites.

    Args:
        counts: by site, which is the host name without `.test`, and path with its query.
    """

    def __init__(self, *, canary: Canary, names: NameServer, authority: Path) -> None:
        self.canary = canary
        self.names = names
        self.authority = authority
        """File of the certificate authority that the good certificate is signed by."""
        self.counts = Counts()
        self.ports: dict[str, int] = {"canary": canary.port}
        self.servers: list[asyncio.Server] = []
        self._answers = all_sites()

    @property
    def allow_hosts(self) -> list[str]:
        """`host:port` of every site: what may be visited although its address is private."""
        others = [f"tls.{DOMAIN}:{self.ports[port]}" for port in _OTHER_PORTS]
        return [*(f"{site}.{DOMAIN}:{self.ports['web']}" for site in self._answers), *others]

    def fill(self, text: str) -> str:
        """Put the ports into a text: `{web}`, `{canary}`, `{closed}`, and those of TLS."""
        for name, port in self.ports.items():
            text = text.replace(f"{{{name}}}", str(port))
        return text

    async def listen(self, name: str, context: ssl.SSLContext | None = None) -> None:
        """Serve the sites on one more port."""
        server = await start(self._connected, HOST, 0, context=context)
        self._keep(name, server)

    async def listen_in_silence(self, name: str) -> None:
        """Accept connections on one more port and never say a word."""

        async def connected(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            while await reader.read(1_000):
                pass

        server = await start(connected, HOST, 0)
        self._keep(name, server)

    def _keep(self, name: str, server: asyncio.Server) -> None:
        self.servers.append(server)
        self.ports[name] = server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            request = await read_request(reader)
            site, path = request.host.removesuffix(f".{DOMAIN}"), request.path
            number = self.counts.add_request(site, path)
            answer = self._answers.get(site, {}).get(path) or says(404)
            sent = functools.partial(self.counts.add_sent, site, path)
            await answer(
                replace(request, number=number), Reply(writer, fill=self.fill, on_sent=sent)
            )


@contextmanager
def hostile_web(folder: Path) -> Generator[Web]:
    """Serve everything while the block runs.

    Args:
        folder: takes the certificate authority's file.
    """
    with ExitStack() as stack:
        is_ours = stack.enter_context(_kept_here(PUBLIC))
        thread = stack.enter_context(LoopThread("hostile-web"))
        canary = Canary()
        thread.run(canary.listen())
        certificates = make_certificates(folder, f"tls.{DOMAIN}")
        names = stack.enter_context(name_server(all_names(is_ours=is_ours)))
        web = Web(canary=canary, names=names, authority=certificates.authority)
        thread.run(web.listen("web"))
        thread.run(web.listen("tls", certificates.good))
        thread.run(web.listen("another_host", certificates.of_another_host))
        thread.run(web.listen("expired", certificates.expired))
        thread.run(web.listen("stranger", certificates.of_a_stranger))
        thread.run(web.listen_in_silence("silent"))
        web.ports["closed"] = _closed_port()
        try:
            yield web
        finally:
            thread.run(_close([*web.servers, *canary.servers]))


async def _close(servers: list[asyncio.Server]) -> None:
    for server in servers:
        server.close()


def _closed_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


@contextmanager
def _kept_here(address: str) -> Generator[bool]:
    """Give loopback an address while the block runs; tell whether that could be done, for which it takes root."""
    words = (f"{address}/32", "dev", "lo")
    is_ours = (
        os.geteuid() == 0
        and shutil.which("ip") is not None
        and subprocess.run(["ip", "addr", "add", *words], check=False).returncode == 0
    )
    try:
        yield is_ours
    finally:
        if is_ours:
            subprocess.run(["ip", "addr", "del", *words], check=False)


def all_names(*, is_ours: bool) -> Table:
    """Return what the name server answers; a name with a public address has none unless that leads here."""
    here = addresses(HOST)
    harmless = [addresses(PUBLIC, ttl_s=0)] if is_ours else []
    return {
        **{f"{site}.{DOMAIN}": [here] for site in all_sites()},
        "private.test": [here],
        "private-six.test": [addresses("::1")],
        "harmless.test": [addresses(PUBLIC)],
        "mapped.test": [addresses("::ffff:127.0.0.1")],
        "alias.test": [addresses(HOST, alias="private.test")],
        "unspecified.test": [addresses("0.0.0.0")],
        "mixed.test": [addresses(PUBLIC, HOST)],
        "rebinding.test": [*harmless, addresses(HOST, ttl_s=0)],
        "metadata.google.internal": [addresses("169.254.169.254")],
        "kubernetes.default.svc": [addresses("10.96.0.1")],
        "no-address.test": [addresses()],
        "server-fails.test": [SERVER_FAILS],
        "refuses.test": [REFUSES],
        "silent.test": [SILENT],
        "garbage.test": [GARBAGE],
        "at-last.test": [SERVER_FAILS, here],
    }


@functools.cache
def all_sites() -> dict[str, Answers]:
    """Return site -> path -> answer. A site without a robots.txt answers 404 for it, as most do."""
    return {
        "pictures": _pictures(),
        "files": _files_that_are_no_pictures(),
        "bombs": _bombs(),
        "redirects": _redirects(),
        "statuses": _statuses(),
        "protocol": _broken_protocol(),
        "lengths": _lengths_and_codings(),
        "slow": _slow_answers(),
        "opt-out": _opt_outs(),
        "urls": _odd_paths(),
        "xn--bcher-kva": {"/good.jpg": plain(PICTURE)},
        "at-last": {"/good.jpg": plain(PICTURE)},
        "under_score": {"/good.jpg": plain(PICTURE)},
        "tls": {"/good.jpg": plain(PICTURE), "/down": leads_to("http://pictures.test:{web}/good")},
        **_sites_that_ask_to_wait(),
        **_sites_with_robots(),
    }


def _pictures() -> Answers:
    """Honest pictures in every form."""
    form = {
        "good": PICTURE,
        "turned.jpg": odd_pictures.turned_jpeg(),
        "progressive.jpg": written(quadrants(), "JPEG", quality=95, progressive=True),
        "gray.jpg": written(quadrants().convert("L"), "JPEG", quality=95),
        "cmyk.jpg": written(quadrants().convert("CMYK"), "JPEG", quality=95),
        "telephone.jpg": odd_pictures.two_pictures_in_one_jpeg(),
        "more-behind-it.jpg": PICTURE + b"<script>alert(1)</script>" * 40,
        "gray-16.png": odd_pictures.gray_png_of_16_bits(200 * 257),
        "colour-16.png": odd_pictures.colour_png_of_16_bits((65_535, 0, 0)),
        "palette.png": odd_pictures.palette_png(transparent=False),
        "palette-alpha.png": odd_pictures.palette_png(transparent=True),
        "alpha.png": written(odd_pictures.half_seen(), "PNG"),
        "gray-alpha.png": written(odd_pictures.gray_with_alpha(), "PNG"),
        "two-colours.png": written(quadrants().convert("1", dither=Image.Dither.NONE), "PNG"),
        "one-pixel.png": written(Image.new("RGB", (1, 1), odd_pictures.RED), "PNG"),
        "animated.png": odd_pictures.animation("PNG"),
        "still.gif": written(quadrants(), "GIF"),
        "animated.gif": odd_pictures.animation("GIF"),
        "lossy.webp": written(quadrants(), "WEBP", quality=95),
        "alpha.webp": written(odd_pictures.half_seen(), "WEBP", lossless=True),
        "animated.webp": odd_pictures.animation("WEBP"),
        "plain.bmp": written(quadrants(), "BMP"),
        "plain.tiff": written(quadrants(), "TIFF"),
        "packed.tiff": written(quadrants(), "TIFF", compression="tiff_lzw"),
        "cmyk.tiff": written(quadrants().convert("CMYK"), "TIFF"),
        "circle.tiff": odd_pictures.tiff_that_goes_in_circles(),
        "telephone-alone.jpg": odd_pictures.telephone_without_its_second(),
        **_with_more_behind(),
        **{f"exif-{name}.jpg": content for name, content in odd_pictures.broken_exif().items()},
    }
    answers = {f"/{name}": plain(content) for name, content in form.items()}
    answers["/as-text"] = plain(PICTURE, kind="text/html")
    answers["/no-type"] = keeps(head((_LENGTH, len(PICTURE))) + PICTURE)
    return answers


def _with_more_behind() -> dict[str, bytes]:
    """Whole pictures, and behind them what is not part of them."""
    forms = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
    film, trailer = (
        odd_pictures.FILM,
        b"\0\0\x30\x0aMotionPhoto_Data" + b"SEFH" + bytes(20) + b"SEFT",
    )
    progressive = written(quadrants(), "JPEG", quality=95, progressive=True)
    return {
        **{f"film.{form.lower()}": written(quadrants(), form) + film for form in forms},
        "film-progressive.jpg": progressive + film,
        "film-telephone.jpg": odd_pictures.two_pictures_in_one_jpeg() + film,
        "film-turned.jpg": odd_pictures.turned_jpeg() + film,
        "film-and-trailer.jpg": PICTURE + film + trailer,
        "scans-behind.jpg": PICTURE + b"\xff\xda" * 5_000,
        "zeros-behind.jpg": PICTURE + bytes(100_000),
        "padding-behind.jpg": PICTURE + b"\xff" * 100_000,
        "twice.jpg": PICTURE + PICTURE,
        "twice.png": written(quadrants(), "PNG") * 2,
        "half-a-chunk-behind.png": written(quadrants(), "PNG") + b"\x7f\xff\xff\xffIDAT",
        "exif-behind.png": written(quadrants(), "PNG") + b"eXIf" * 9,
        "frames-behind.gif": written(quadrants(), "GIF") + odd_pictures.gif_of_frames(50_000),
    }


def _files_that_are_no_pictures() -> Answers:
    """Files that say image/jpeg and hold something else, and pictures that are broken."""
    busy = {
        form: written(busy_picture(), form)
        for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    }
    progressive = written(busy_picture(), "JPEG", progressive=True)
    contents = {
        "page.html": b"<!doctype html><title>Gone</title><p>This page is not a picture.</p>",
        "again.html": b"<!doctype html><title>Gone</title>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "paper.pdf": b"%PDF-1.7\n1 0 obj << >> endobj\n" * 20,
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
        "words.txt": b"not a picture\n" * 50,
        "answer.json": b'{"error": "not found"}',
        "sound.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
        "still.avif": written(quadrants(), "AVIF"),
        "icon.ico": written(quadrants(), "ICO"),
        "empty.jpg": b"",
        "one-byte.jpg": b"\xff",
        "zeros.jpg": bytes(5_000),
        "noise.jpg": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8,
        "no-end.jpg": PICTURE[:-2],
        "cut-before-a-film.jpg": _cut(PICTURE) + odd_pictures.FILM.replace(b"\xff\xd9", b""),
        "magic-only.png": b"\x89PNG\r\n\x1a\n",
        "head-only.jpg": PICTURE[: PICTURE.index(b"\xff\xda")],
        "cut-progressive.jpg": _cut(progressive),
        **{f"cut.{form.lower()}": _cut(content) for form, content in busy.items()},
        "script.gif": b"GIF89a/*" + b"\0" * 4 + b"*/=1;alert(1)//",
        "wrong-checksum.png": odd_pictures.png_with_a_broken_header(),
        "endless-chunk.png": odd_pictures.png_with_an_endless_chunk(),
        "no-size.gif": odd_pictures.gif_without_a_size(),
    }
    return {f"/{name}": plain(content) for name, content in contents.items()}


def _cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def _bombs() -> Answers:
    """Small files that want to be large pictures, or many."""
    many = odd_pictures.FRAMES_OF_A_BOMB
    contents = {
        "lying.png": odd_pictures.lying_png(),
        "real.png": odd_pictures.real_png_bomb(),
        "lying.jpg": odd_pictures.lying_jpeg(),
        "lying.gif": odd_pictures.lying_gif(),
        "lying.webp": odd_pictures.lying_webp(),
        "lying.bmp": odd_pictures.lying_bmp(),
        "lying.tiff": odd_pictures.lying_tiff(),
        "profile.png": odd_pictures.png_with_profile_bomb(),
        "text.png": odd_pictures.png_with_text_bomb(),
        "frames.gif": odd_pictures.animation("GIF", many),
        "frames.webp": odd_pictures.animation("WEBP", many),
        "frames.png": odd_pictures.png_of_many_frames(),
        "frames.tiff": odd_pictures.animation("TIFF", many),
        "scans.jpg": odd_pictures.jpeg_of_many_scans(),
        **bombs_of(MAX_BODY_BYTES - 10_000),
    }
    return {f"/{name}": plain(content) for name, content in contents.items()}


def bombs_of(num_bytes: int) -> dict[str, bytes]:
    """Files of about so many bytes that a reader without limits never ends with, or fills the memory with."""
    return {
        "padding.jpg": odd_pictures.jpeg_of_padding(num_bytes),
        "segments.jpg": odd_pictures.jpeg_of_segments(num_bytes),
        "profiles.jpg": odd_pictures.jpeg_of_profiles(num_bytes),
        "tags.jpg": odd_pictures.jpeg_with_shared_tags(),
        "tags.png": odd_pictures.png_with_shared_tags(),
        "texts.png": odd_pictures.png_of_texts(num_bytes // 1_100),
        "chunks.png": odd_pictures.png_of_chunks(num_bytes),
        "pages.tiff": odd_pictures.tiff_of_pages(num_bytes),
        "pixels.gif": odd_pictures.gif_of_frames(num_bytes),
        "comments.gif": odd_pictures.gif_of_comments(num_bytes),
        "blocks.gif": odd_pictures.gif_of_small_blocks(num_bytes),
        "nothing.gif": odd_pictures.gif_of_nothing(num_bytes),
        "empty.webp": odd_pictures.webp_of_frames(num_bytes),
        "packed.jpg": gzip.compress(odd_pictures.jpeg_of_padding(48_000_000)),
    }


def _redirects() -> Answers:
    target = "http://pictures.test:{web}/good"
    places = {
        "/to/loopback": "http://127.0.0.1:{canary}/",
        "/to/decimal": "http://2130706433:{canary}/",
        "/to/short": "http://127.1:{canary}/",
        "/to/six": "http://[::1]:{canary}/",
        "/to/mapped": "http://[::ffff:127.0.0.1]:{canary}/",
        "/to/metadata": "http://169.254.169.254:{canary}/",
        "/to/name": "http://private.test:{canary}/",
        "/to/other-port": "http://redirects.test:{canary}/",
        "/to/tls": "https://127.0.0.1:{canary}/",
        "/to/two-slashes": "//127.0.0.1:{canary}/",
        "/to/file": "file:///etc/passwd",
        "/to/data": "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        "/to/ftp": "ftp://127.0.0.1:{canary}/picture.jpg",
        "/to/gopher": "gopher://127.0.0.1:{canary}/_GET%20/",
        "/to/script": "javascript:alert(1)",
        "/to/backslash": "http://127.0.0.1:{canary}\\@pictures.test:{web}/good",
        "/to/two-backslashes": "\\\\127.0.0.1:{canary}\\",
        "/to/user": "http://pictures.test@127.0.0.1:{canary}/",
        "/to/half-an-address": "http://[::1",
        "/to/closed-port": "http://harmless.test:8080/good.jpg",
        "/to/closed-port-of-six": "//[2606:4700::1]:22/",
        "/to/no-address": "http://[pictures.test]/good",
        "/to/future": "//[v1.pictures.test]/good",
        "/to/zone": "https://[2606:4700::1%25lo]/",
        "/to/port": "http://pictures.test:99999/good",
        "/to/disallowed": "http://closed.test:{web}/good.jpg",
        "/to/nowhere": "http://nowhere.test:{web}/good.jpg",
        "/to/itself": "/to/itself",
        "/to/one": "/to/two",
        "/to/two": "/to/one",
        "/to/empty": "",
        "/to/spaces": "/a picture with spaces.jpg",
        "/to/german": "/b\u00fccher.jpg",
        "/to/relative/here": "../../good",
        "/to/root": "/good",
        "/to/query": "?again",
        "/to/fragment": "/good#part",
        "/to/same-host": "//redirects.test:{web}/good",
        "/chain/0": target,
        **{f"/chain/{n}": f"/chain/{n - 1}" for n in range(1, 10)},
    }
    answers = {path: leads_to(place) for path, place in places.items()}
    answers |= {f"/status/{n}": leads_to(target, n) for n in (301, 302, 303, 307, 308)}
    big = (_LENGTH, MAX_BODY_BYTES * 10)
    return {
        **answers,
        "/good": plain(PICTURE),
        "/to/query?again": plain(PICTURE),
        "/a%20picture%20with%20spaces.jpg": plain(PICTURE),
        "/b%C3%BCcher.jpg": plain(PICTURE),
        "/nowhere-said": says(302),
        "/big-body": never_ends(head((_LOCATION, "/good"), big, status=302), bytes(50_000)),
    }


def _statuses() -> Answers:
    answers = {f"/{n}": says(n) for n in (400, 401, 403, 404, 410, 418, 451, 500, 501, 502)}
    return {
        **answers,
        "/picture-of-404": plain(PICTURE, status=404),
        "/204": keeps(head(status=204)),
        "/206": plain(PICTURE[:100], ("Content-Range", "bytes 0-99/5000"), status=206),
        "/304": keeps(head(status=304)),
        "/500-then-good": in_turn(says(500), plain(PICTURE)),
        "/reset-then-good": in_turn(resets_after(b""), plain(PICTURE)),
        "/silent-then-good": in_turn(falls_silent_after(b""), plain(PICTURE)),
    }


def _sites_that_ask_to_wait() -> dict[str, Answers]:
    """One host each, since a host that asks to be left alone is left alone as a whole."""
    often = (_RETRY, "0")
    soon = (_RETRY, "1")
    return {
        "busy-once": {"/good.jpg": in_turn(says(429, soon), plain(PICTURE))},
        "busy-always": {"/good.jpg": says(429, often)},
        "busy-all-day": {"/good.jpg": says(429, (_RETRY, "86400"))},
        "busy-till-2020": {
            "/good.jpg": in_turn(
                says(429, (_RETRY, "Wed, 01 Jan 2020 00:00:00 GMT")), plain(PICTURE)
            )
        },
        **{
            f"busy-absurd-{number}": {
                "/good.jpg": in_turn(says(429, (_RETRY, value)), plain(PICTURE))
            }
            for number, value in enumerate(ABSURD_WAITS)
        },
        "busy-in-words": {
            "/good.jpg": in_turn(says(429, (_RETRY, "-1 or so \u00e9")), plain(PICTURE))
        },
        "down-once": {"/good.jpg": in_turn(says(503, soon), plain(PICTURE))},
        "down-always": {"/good.jpg": says(503)},
    }


def _broken_protocol() -> Answers:
    body, length = PICTURE, (_LENGTH, len(PICTURE))
    lines = [f"X-Field-{n}: something" for n in range(2_000)]
    many = ("\r\n".join(["HTTP/1.1 200 OK", *lines]) + "\r\n\r\n").encode()
    return {
        "/hangs-up": hangs_up_after(),
        "/resets": resets_after(b""),
        "/half-a-head": hangs_up_after(b"HTTP/1.1 200 OK\r\nContent-Le"),
        "/not-http": hangs_up_after(b"SSH-2.0-OpenSSH_9.6\r\n"),
        "/no-head": hangs_up_after(body),
        "/status-of-letters": hangs_up_after(b"HTTP/1.1 good OK\r\n\r\n" + body),
        "/endless-head": never_ends(b"HTTP/1.1 200 OK\r\n", b"X-Field: something\r\n" * 500),
        "/endless-line": never_ends(b"HTTP/1.1 200 OK\r\nX-Field: ", b"a" * 10_000),
        "/endless-first-line": never_ends(b"HTTP/1.1 200 ", b"a" * 10_000),
        "/long-line": hangs_up_after(head(length, ("X-Field", "a" * 100_000)) + body),
        "/many-fields": hangs_up_after(many + body),
        "/endless-continue": never_ends(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 20, every_s=0.01),
        "/null-in-head": hangs_up_after(head(length, ("X-Field", "a\0b")) + body),
        "/letters-as-length": hangs_up_after(head((_LENGTH, "many")) + body),
        "/negative-length": hangs_up_after(head((_LENGTH, -5)) + body),
        "/two-lengths": hangs_up_after(head(length, (_LENGTH, 7)) + body),
        "/no-hex-as-chunk": hangs_up_after(
            head(("Transfer-Encoding", "chunked")) + b"zz\r\n" + body
        ),
        "/no-reason": keeps(b"HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n" % len(body) + body),
        "/old": hangs_up_after(b"HTTP/1.0 200 OK\r\n\r\n" + body),
        "/latin-field": keeps(
            b"HTTP/1.1 200 OK\r\nX-Field: caf\xe9\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        ),
        "/byte-by-byte": hangs_up_after(
            *(bytes([byte]) for byte in head(length)), body, pause_s=0.005
        ),
    }


def _lengths_and_codings() -> Answers:
    body, limit = PICTURE, MAX_BODY_BYTES
    chunked, packed = ("Transfer-Encoding", "chunked"), (_CODING, "gzip")
    zipped = gzip.compress(body)
    bomb = gzip.compress(bytes(limit * 20))
    packer = zlib.compressobj(wbits=31)
    beginning = packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(500_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    return {
        "/longer": hangs_up_after(head((_LENGTH, len(body) * 2)) + body),
        "/shorter": hangs_up_after(head((_LENGTH, len(body) // 2)) + body),
        "/shorter-with-more": keeps(head((_LENGTH, len(body) // 2)) + body + whole(body)),
        "/nothing-announced": hangs_up_after(head() + body),
        "/announced-too-large": never_ends(head((_LENGTH, 10**12)), bytes(50_000)),
        "/endless": never_ends(head(), bytes(50_000)),
        "/endless-picture": never_ends(head() + body, bytes(50_000)),
        "/endless-chunks": never_ends(head(chunked), b"c350\r\n" + bytes(50_000) + b"\r\n"),
        "/one-endless-chunk": never_ends(head(chunked) + b"ffffffffff\r\n", bytes(50_000)),
        "/chunks": keeps(in_chunks(body)),
        "/cut-chunks": hangs_up_after(in_chunks(body)[:-40]),
        "/cut-between-chunks": hangs_up_after(in_chunks(body)[: -len(b"0\r\n\r\n")]),
        "/reset-in-body": resets_after(head((_LENGTH, len(body))) + body[:100]),
        "/gzip": plain(zipped, packed),
        "/deflate": plain(zlib.compress(body), (_CODING, "deflate")),
        "/identity": plain(body, (_CODING, "identity")),
        "/gzip-bomb": plain(bomb, packed),
        "/gzip-of-gzip-bomb": plain(gzip.compress(bomb), (_CODING, "gzip, gzip")),
        "/endless-gzip": never_ends(head(packed) + beginning, again),
        "/no-gzip": plain(body, packed),
        "/cut-gzip": plain(zipped[: len(zipped) // 2], packed),
        "/unknown-coding": plain(body, (_CODING, "x-secret")),
        "/no-coding": plain(body, (_CODING, "")),
        "/identity-shouted": plain(body, (_CODING, " IDENTITY , identity")),
        "/packed-padding": plain(gzip.compress(odd_pictures.jpeg_of_padding(48_000_000)), packed),
        "/two-codings": plain(zipped, (_CODING, "identity"), packed),
        "/packed-transfer": keeps(in_chunks(zipped).replace(b": chunked", b": gzip, chunked", 1)),
        **{f"/coded-{n}": plain(zipped, (_CODING, name)) for n, name in enumerate(STRANGE_CODINGS)},
    }


def _slow_answers() -> Answers:
    whole_body = head((_LENGTH, len(PICTURE)))
    return {
        "/silence": falls_silent_after(b""),
        "/silence-in-head": falls_silent_after(b"HTTP/1.1 200 OK\r\nContent-"),
        "/silence-before-body": falls_silent_after(whole_body),
        "/silence-in-body": falls_silent_after(whole_body + PICTURE[:100]),
        "/drip": never_ends(head((_LENGTH, 1_000_000)), b"\xff", every_s=0.2),
        "/drip-of-head": never_ends(b"HTTP/1.1 200 OK\r\nX-Field: ", b"a", every_s=0.2),
        "/a-little": hangs_up_after(whole_body, PICTURE[:100], PICTURE[100:], pause_s=0.4),
    }


def _opt_outs() -> Answers:
    fields = {
        "noai": ["noai"],
        "noimageai": ["noimageai"],
        "noindex": ["noindex"],
        "noimageindex": ["noimageindex"],
        "shouted": ["NOAI"],
        "in-a-list": ["nofollow, noarchive,noai"],
        "in-the-second": ["nofollow", "noai"],
        "to-us": ["neuclip: noai"],
        "to-us-shouted": ["NeuCLIP:noindex"],
        "to-us-second": ["otherbot: noarchive", "neuclip: nofollow, noimageai"],
        "to-another": ["otherbot: noai"],
        "to-others": ["otherbot: noindex", "thirdbot: noai"],
        "of-something-else": ["nofollow, max-snippet: 20, noarchive"],
        "part-of-a-word": ["noaircraft, xnoindex"],
        "empty": [""],
        "after-never": ["unavailable_after: Wed, 99 Foo 99999 25:61:61 GMT"],
        "after-digits": ["unavailable_after: " + "9" * 5_000, "max-snippet: -99999999999999999999"],
        "after-noai": ["unavailable_after: Fri, 31 Dec 99999 23:59:59 GMT, noai"],
    }
    answers = {
        f"/{name}": plain(PICTURE, *((_OPT_OUT, value) for value in values))
        for name, values in fields.items()
    }
    answers["/name-in-lower-case"] = plain(PICTURE, ("x-robots-tag", "noai"))
    answers["/endless"] = never_ends(head((_OPT_OUT, "noai")), bytes(50_000))
    return answers


def _odd_paths() -> Answers:
    paths = [
        "/",
        "/good.jpg",
        "/?query",
        "/with%20space.jpg",
        "/caf%C3%A9.jpg",
        "/caf%E9.jpg",
        "/%E5%9B%BE.jpg?%E5%AD%97=%E5%80%BC",
        "/a%2Fb.jpg",
        "/a+b.jpg",
        "/%25.jpg",
        "/a.jpg?url=http://other.test/&sha256=00",
        "/a.jpg?q=%26%3D%23",
        "/same.jpg",
        LONG_PATH,
    ]
    return {path: plain(PICTURE) for path in paths}


def _sites_with_robots() -> dict[str, Answers]:
    """Hosts by what their robots.txt says."""
    nobody = b"User-agent: *\nDisallow: /\n"
    texts = {
        "closed": nobody,
        "partly-closed": b"User-agent: *\nDisallow: /private/\nAllow: /private/open.jpg\n",
        "closed-to-us": b"User-agent: *\nAllow: /\n\nUser-agent: NeuCLIP\nDisallow: /\n",
        "closed-to-others": b"User-agent: otherbot\nDisallow: /\n\nUser-agent: *\nAllow: /\n",
        "open-to-us": b"User-agent: *\nDisallow: /\n\nUser-agent: neuclip\nAllow: /\n",
        "closed-by-pattern": b"User-agent: *\nDisallow: /*.jpg$\n",
        "closed-with-mark": b"\xef\xbb\xbf" + nobody,
        "closed-in-dos": nobody.replace(b"\n", b"\r\n"),
        "robots-is-a-page": b"<!doctype html><title>Welcome</title>",
        "robots-is-noise": bytes(range(256)) * 20,
        "robots-is-empty": b"",
        "robots-counts-for-all": odd_pictures.endless_rules(),
        **ABSURD_RULES,
        "robots-is-huge": nobody + b"# words\n" * (MAX_BODY_BYTES // 2),
    }
    answers: dict[str, Answer] = {
        site: plain(text, kind="text/plain") for site, text in texts.items()
    }
    answers |= {
        "robots-404": says(404),
        "robots-403": says(403),
        "robots-500": says(500),
        "robots-is-silent": falls_silent_after(b""),
        "robots-hangs-up": hangs_up_after(),
        "robots-is-endless": never_ends(head(), nobody + b"# words\n" * 5_000),
        "robots-leads-on": leads_to("http://closed.test:{web}/robots.txt"),
        "robots-leads-inside": leads_to("http://127.0.0.1:{canary}/robots.txt"),
        "robots-leads-to-a-port": leads_to("http://harmless.test:8080/robots.txt"),
        "robots-leads-round": leads_to("/robots.txt"),
        "robots-is-packed": plain(gzip.compress(nobody), (_CODING, "gzip"), kind="text/plain"),
    }
    paths = ("/good.jpg", "/private/shut.jpg", "/private/open.jpg", "/other.png")
    return {
        site: {"/robots.txt": answer, **{path: plain(PICTURE) for path in paths}}
        for site, answer in answers.items()
    }
