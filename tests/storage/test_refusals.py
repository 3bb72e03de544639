"""Oracle: S3's list of error codes. Each kind of refusal has its own sentence, and says what to do."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import s3fs
from servers.s3 import HOST, KEYS, SECRET

from neuclip.foundation.errors import StorageError, is_transient
from neuclip.storage.files import exists, list_files, read_bytes, write_bytes

ACTIONS = {
    "exists": exists,
    "list_files": list_files,
    "read_bytes": read_bytes,
    "write_bytes": lambda uri: write_bytes(uri, b"x"),
}
REFUSALS = {
    ("ExpiredToken", 400): "token has expired; get new credentials and set AWS_SESSION_TOKEN",
    ("TokenRefreshRequired", 400): "token has expired",
    ("InvalidToken", 400): "does not accept the session token; AWS_SESSION_TOKEN must",
    ("RequestTimeTooSkewed", 403): "the clock of this machine differs .*; set it",
    ("InvalidAccessKeyId", 403): "does not know this access key; check AWS_ACCESS_KEY_ID",
    ("SignatureDoesNotMatch", 403): "check AWS_SECRET_ACCESS_KEY",
    ("AccessDenied", 403): "permission denied; check the AWS_. keys and the policies",
    ("PermanentRedirect", 301): r"another region \(eu-central-1\); set AWS_DEFAULT_REGION",
    ("AuthorizationHeaderMalformed", 400): r"another region \(eu-central-1\)",
    ("IllegalLocationConstraintException", 400): "another region",
    ("InvalidObjectState", 403): "archived; restore it",
    ("QuotaExceeded", 403): "quota of the bucket is used up",
}
LATER = {
    ("SlowDown", 503): "fewer requests|SlowDown|reduce your request rate",
    ("TooManyRequests", 429): "fewer requests",
    ("BadDigest", 400): "did not arrive as it was sent",
    ("IncompleteBody", 400): "did not arrive whole",
}


class Refusing(BaseHTTPRequestHandler):
    """Says no to everything, as S3 does: an answer to HEAD has no body."""

    protocol_version = "HTTP/1.1"
    code, status = "", 0

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = (
            f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>No.</Message>"
            "<Region>eu-central-1</Region></Error>"
        ).encode()
        self.send_response_only(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(body)))
        self.send_header("x-amz-bucket-region", "eu-central-1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def refusing():
    """A server, and the environment that leads to it; one for all tests, for sessions take time to make."""
    patch = pytest.MonkeyPatch()
    with ThreadingHTTPServer((HOST, 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://{HOST}:{server.server_port}",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
        server.shutdown()
    patch.undo()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.s3
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("code", "status"), REFUSALS)
def test_each_refusal_has_its_own_sentence(code, status, action, refusing, monkeypatch):
    monkeypatch.setattr(Refusing, "code", code)
    monkeypatch.setattr(Refusing, "status", status)
    with pytest.raises(StorageError) as caught:
        ACTIONS[action]("s3://bucket/file")
    assert re.search(REFUSALS[code, status], str(caught.value))
    assert "s3://bucket/file" in str(caught.value)
    assert not is_transient(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.parametrize("action", ["read_bytes", "write_bytes"])
@pytest.mark.parametrize(("code", "status"), LATER)
def test_what_may_pass_is_transient(code, status, action, refusing, monkeypatch):
    monkeypatch.setattr(Refusing, "code", code)
    monkeypatch.setattr(Refusing, "status", status)
    with pytest.raises(StorageError, match=LATER[code, status]) as caught:
        ACTIONS[action]("s3://bucket/file")
    assert is_transient(caught.value)
