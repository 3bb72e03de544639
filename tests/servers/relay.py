"""A relay before a real S3 server that spoils what passes through it, as a broken proxy or gateway would."""

import http.client
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOST = "127.0.0.1"
ERROR_XML = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>Oops</Message></Error>"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Relay:
    """What passes: `requests` as METHOD /path; `spoil_answer` and `spoil_request` change it on its way."""

    url: str
    requests: list[str] = field(default_factory=list)
    spoil_answer: Callable[[str, Answer], None] = lambda request, answer: None
    spoil_request: Callable[[str, bytes], bytes | None] = lambda request, body: body

    says_checksums: bool = True
    """False: as a server that has none, it says nothing of x-amz-checksum."""
    spoiled: int = 0

    def count(self, method: str) -> int:
        return sum(request.startswith(f"{method} ") for request in self.requests)


@contextmanager
def relay_to(upstream: str) -> Generator[Relay]:
    """Pass requests on to a server until the block ends."""
    target = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            request = f"{self.command} {self.path}"
            relay.requests.append(request)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sent = relay.spoil_request(request, body)
            if sent is None:  # kept back
                answer = Answer(200, {}, ERROR_XML)
            else:
                headers = {**self.headers, "Content-Length": str(len(sent))}
                if sent != body:  # the sums of the sound body would tell the server
                    headers = _without_sums(headers)
                upward = http.client.HTTPConnection(target.hostname or "", target.port)
                upward.request(self.command, self.path, sent, headers)
                found = upward.getresponse()
                answer = Answer(found.status, dict(found.getheaders()), found.read())
                upward.close()
            if not relay.says_checksums:
                answer.headers = _without_sums(answer.headers)
            relay.spoil_answer(request, answer)
            self.send_response_only(answer.status)
            hop = ("connection", "transfer-encoding", "content-length")
            for name, value in answer.headers.items():
                if name.lower() not in hop:
                    self.send_header(name, value)
            length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        relay = Relay(f"http://{HOST}:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield relay
        finally:
            server.shutdown()


def _without_sums(headers: dict[str, str]) -> dict[str, str]:
    sums = ("x-amz-checksum", "content-md5")
    return {name: value for name, value in headers.items() if not name.lower().startswith(sums)}
