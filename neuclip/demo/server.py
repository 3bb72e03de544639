"""A real HTTP server on loopback: the pictures of a folder, and the ways in which the web fails.

Below `/-/` a path says how it goes wrong: `/-/status/500/ANYTHING`, `/-/truncated/PATH` (announces the file, sends
half of it), `/-/slow/SECONDS/PATH`, `/-/noai/PATH` (with an opt-out header), `/-/empty`, `/-/html`.

`python -m neuclip.demo.server FOLDER` serves the web of a demo until it is interrupted, for runs that others start.
"""

import argparse
import contextlib
import errno
import json
import logging
import mimetypes
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from neuclip.demo.settings import MARKER
from neuclip.foundation.errors import ConfigError, DataError, NeuclipError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_ODDITIES = "/-/"
_HTML = b"<!doctype html><title>Gone</title><p>This page is not a picture.</p>"
_STALLED_CLIENT_S = 60


class ImageServer(ThreadingHTTPServer):
    """Serves the files of one folder, and nothing outside it, until it is shut down.

    Args:
        on_request: is called with the path of each request, in the thread that answers it.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(
        self, folder: Path, port: int, on_request: Callable[[str], None] | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.on_request = on_request
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """The URL of the folder, without a slash at its end."""
        return f"http://{HOST}:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Note a client that went away; nobody else is concerned."""
        log.debug("request %s from %s failed", request, client_address)


@contextmanager
def serving(
    folder: Path, port: int, *, on_request: Callable[[str], None] | None = None
) -> Generator[ImageServer]:
    """Serve a folder on loopback while the block runs; port 0 takes any that is free.

    Raises: ConfigError: if the port is taken. DataError: if there is no folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"expected a folder of pictures at {folder}, found none; `neuclip demo` draws one"
        )
    try:
        server = ImageServer(folder, port, on_request)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise ConfigError(
            f"cannot serve the pictures of {folder} on {HOST}:{port}: {error.strerror}; stop what listens there, "
            f"or choose another port: `neuclip demo --port {port + 1}`"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="image-server", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _STALLED_CLIENT_S
    server: ImageServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:  # the name that http.server calls
        path = unquote(urlsplit(self.path).path)
        if self.server.on_request is not None:
            self.server.on_request(path)
        if path.startswith(_ODDITIES):
            oddity, _, rest = path.removeprefix(_ODDITIES).partition("/")
            self._answer_oddly(oddity, rest)
        else:
            self._send_file(path)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)

    def _answer_oddly(self, oddity: str, rest: str) -> None:
        if oddity == "status":
            self._send(HTTPStatus(int(rest.split("/", maxsplit=1)[0])), b"")
        elif oddity == "empty":
            self._send(HTTPStatus.OK, b"", content_type="image/jpeg")
        elif oddity == "html":
            self._send(HTTPStatus.OK, _HTML, content_type="text/html")
        elif oddity == "noai":
            self._send_file(rest, {"X-Robots-Tag": "noai"})
        elif oddity == "truncated":
            self._send_file(rest, share_sent=0.5)
        elif oddity == "slow":
            seconds, _, rest = rest.partition("/")
            time.sleep(float(seconds))
            self._send_file(rest)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"")

    def _send_file(
        self, path: str, headers: dict[str, str] | None = None, *, share_sent: float = 1.0
    ) -> None:
        file = (self.server.folder / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.server.folder) or not file.is_file():
            self._send(HTTPStatus.NOT_FOUND, b"")
            return
        content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        content = file.read_bytes()
        self._send(
            HTTPStatus.OK, content, headers, content_type=content_type, share_sent=share_sent
        )

    def _send(
        self,
        status: HTTPStatus,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        content_type: str = "text/plain",
        share_sent: float = 1.0,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: int(len(content) * share_sent)])
        if share_sent < 1:
            self.close_connection = True


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve a folder until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m neuclip.demo.server",
        description="Serve the pictures of a demo on loopback.",
    )
    parser.add_argument("folder", type=Path, help="what `neuclip demo` has drawn: lake/demo-web")
    parser.add_argument(
        "port", type=int, nargs="?", help="default: the port in the URLs of the folder's table"
    )
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    try:
        with serving(folder, given.port or _port_of(folder)) as server:
            sys.stdout.write(f"serving {folder} at {server.url}; Ctrl-C ends it\n")
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    except NeuclipError as error:
        parser.exit(error.exit_code, f"{type(error).__name__}: {error}\n")


def _port_of(folder: Path) -> int:
    """Return the port that the URLs of a drawn web name."""
    try:
        return int(json.loads((folder / MARKER).read_text(encoding="utf-8"))["port"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"expected a web that a demo has drawn at {folder}, found no {MARKER} with a port; "
            "`neuclip demo` draws one, or say which PORT"
        ) from error


if __name__ == "__main__":
    main()
