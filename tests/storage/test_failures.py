"""Oracle: a failure says the place, what is wrong and what to do, in bounded time, without a secret."""

import errno
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import s3fs
from servers.s3 import HOST, KEYS, SECRET, free_port

from neuclip.foundation.errors import StorageError, TransientStorageError, is_transient
from neuclip.storage import filesystems
from neuclip.storage.files import (
    exists,
    get_file,
    list_files,
    list_folders,
    put_file,
    read_bytes,
    remove,
    remove_tree,
    sha256_of,
    size_bytes,
    upload,
    version_tag,
    write_bytes,
)

ANSWERS_WITHIN_S = 60


@pytest.fixture
def no_aws(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def set_keys(no_aws):
    for name, value in KEYS.items():
        no_aws.setenv(name, value)
    return no_aws


def actions(uri: str, path: Path) -> dict:
    path.write_bytes(b"content")
    return {
        "exists": lambda: exists(uri),
        "list_files": lambda: list_files(uri),
        "list_folders": lambda: list_folders(uri),
        "size_bytes": lambda: size_bytes(uri),
        "read_bytes": lambda: read_bytes(uri),
        "write_bytes": lambda: write_bytes(uri, b"x"),
        "put_file": lambda: put_file(path, uri),
        "upload": lambda: upload(path, uri),
        "get_file": lambda: get_file(uri, path.with_name("got")),
        "remove": lambda: remove(uri),
        "remove_tree": lambda: remove_tree(uri),
        "sha256_of": lambda: sha256_of(uri),
        "version_tag": lambda: version_tag(uri),
    }


def whole_story(error: BaseException) -> str:
    """The message with those of all its causes, as a log would show them."""
    told = []
    cause: BaseException | None = error
    while cause is not None:
        told.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(told)


FAST = ("read_bytes",)
ACTIONS = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in actions("", Path(os.devnull))
]


@pytest.mark.s3
@pytest.mark.parametrize("action", ACTIONS)
def test_an_unreachable_endpoint_is_named(action, set_keys, tmp_path):
    endpoint = f"http://{HOST}:{free_port()}"
    set_keys.setenv("AWS_ENDPOINT_URL", endpoint)
    start = time.monotonic()
    with pytest.raises(TransientStorageError) as caught:
        actions("s3://bucket/file", tmp_path / "here")[action]()
    assert time.monotonic() - start < ANSWERS_WITHIN_S
    assert endpoint in str(caught.value)
    assert "s3://bucket/file" in str(caught.value)
    assert is_transient(caught.value)
    assert SECRET not in whole_story(caught.value)
    assert (tmp_path / "here").read_bytes() == b"content"  # nothing was moved away
    assert not (tmp_path / "got").exists()


@pytest.mark.s3
@pytest.mark.parametrize(
    "action", ["list_folders", "read_bytes", "write_bytes", "upload", "version_tag"]
)
def test_a_bucket_that_does_not_exist(action, s3_environment, tmp_path):
    uri = "s3://no-such-bucket-here/file"
    if action == "list_folders":
        assert list_folders(uri) == []
        return
    with pytest.raises(StorageError) as caught:
        actions(uri, tmp_path / "here")[action]()
    assert uri in str(caught.value)
    assert "bucket" in str(caught.value)
    assert not is_transient(caught.value)
    assert SECRET not in whole_story(caught.value)


@pytest.mark.s3
@pytest.mark.parametrize("action", ["exists", "list_files", "read_bytes", "write_bytes"])
def test_no_credentials(action, s3_environment, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        actions("s3://bucket/file", tmp_path / "here")[action]()
    assert not is_transient(caught.value)


def test_an_unknown_protocol():
    with pytest.raises(StorageError, match="'s4'"):
        read_bytes("s4://bucket/file")


def test_no_permission_or_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file/below"):
        write_bytes(str(tmp_path / "file" / "below"), b"x")
    with pytest.raises(StorageError, match=str(tmp_path)):
        read_bytes(str(tmp_path))


class TestFullDisk:
    def check(self, error: StorageError, small_disk: Path):
        assert "the disk is full" in str(error)
        assert not is_transient(error)
        assert (small_disk / "file").read_bytes() == b"old"
        assert [p.name for p in small_disk.iterdir()] == ["file"]

    def test_write(self, small_disk):
        write_bytes(str(small_disk / "file"), b"old")
        with pytest.raises(StorageError) as caught:
            write_bytes(str(small_disk / "file"), b"x" * 2_000_000)
        self.check(caught.value, small_disk)

    def test_put_from_another_disk(self, small_disk, tmp_path):
        write_bytes(str(small_disk / "file"), b"old")
        source = tmp_path / "source"
        source.write_bytes(b"x" * 2_000_000)
        with pytest.raises(StorageError) as caught:
            put_file(source, str(small_disk / "file"))
        self.check(caught.value, small_disk)
        assert source.stat().st_size == 2_000_000

    def test_get(self, small_disk, tmp_path):
        write_bytes(str(small_disk / "file"), b"old")
        (tmp_path / "source").write_bytes(b"x" * 2_000_000)
        with pytest.raises(StorageError) as caught:
            get_file(str(tmp_path / "source"), small_disk / "file")
        self.check(caught.value, small_disk)

    @pytest.mark.s3
    def test_get_from_s3(self, small_disk, s3_bucket):
        write_bytes(str(small_disk / "file"), b"old")
        write_bytes(f"{s3_bucket}/large", b"x" * 2_000_000)
        with pytest.raises(StorageError) as caught:
            get_file(f"{s3_bucket}/large", small_disk / "file")
        self.check(caught.value, small_disk)


def test_a_full_disk_by_quota(tmp_path, monkeypatch):
    """EDQUOT; no quota can be set here, so the system's answer is made up."""

    def refuse(number):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    write_bytes(str(tmp_path / "file"), b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="the quota of the disk is used up"):
        write_bytes(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.s3
def test_an_upload_that_breaks_off_leaves_the_old_object(s3_bucket, s3_environment, monkeypatch):
    """A relay that hangs up in the middle of a body stands between; the server keeps what it had."""
    uri = f"{s3_bucket}/file"
    write_bytes(uri, b"old")
    server = s3_environment["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
    with socket.create_server((HOST, 0)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{listener.getsockname()[1]}")
        s3fs.S3FileSystem.clear_instance_cache()
        relay = threading.Thread(target=_relay_some, args=(listener, server), daemon=True)
        relay.start()
        with pytest.raises(TransientStorageError):
            write_bytes(uri, b"x" * 3_000_000)
        listener.shutdown(socket.SHUT_RDWR)
    relay.join(timeout=10)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_environment["AWS_ENDPOINT_URL"])
    s3fs.S3FileSystem.clear_instance_cache()
    assert read_bytes(uri) == b"old"
    assert list_files(s3_bucket) == {"file": 3}


def _relay_some(listener: socket.socket, server: list[str]) -> None:
    """Pass a megabyte on from each client, and the answers back, then hang up on both sides."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, socket.create_connection((server[0], int(server[1]))) as upstream:
            threading.Thread(target=_pass_on, args=(upstream, client), daemon=True).start()
            _pass_on(client, upstream, most=1_000_000)
            for end in (client, upstream):
                end.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket, most: float = float("inf")) -> None:
    passed = 0
    try:
        while passed < most and (block := source.recv(65536)):
            target.sendall(block)
            passed += len(block)
    except OSError:
        return


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_endpoint_that_never_answers(set_keys):
    """It takes every connection and says nothing: no read may wait for ever, and each try as long as it is told."""
    assert filesystems.READ_TIMEOUT_S <= 20
    set_keys.setattr(filesystems, "READ_TIMEOUT_S", 3)
    s3fs.S3FileSystem.clear_instance_cache()
    with socket.create_server((HOST, 0), backlog=64) as listener:
        endpoint = f"http://{HOST}:{listener.getsockname()[1]}"
        set_keys.setenv("AWS_ENDPOINT_URL", endpoint)
        start = time.monotonic()
        with pytest.raises(TransientStorageError) as caught:
            read_bytes("s3://bucket/file")
    assert time.monotonic() - start < 60
    assert endpoint in str(caught.value)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "SlowDown"),
        *(
            pytest.param(*answer, marks=pytest.mark.slow)
            for answer in ((503, "ServiceUnavailable"), (500, "InternalError"))
        ),
    ],
)
def test_a_busy_server_may_answer_later(status, code, set_keys):
    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            body = f"<Error><Code>{code}</Code><Message>Try later.</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer((HOST, 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        set_keys.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{server.server_port}")
        with pytest.raises(TransientStorageError, match="s3://bucket/file"):
            read_bytes("s3://bucket/file")
        server.shutdown()
