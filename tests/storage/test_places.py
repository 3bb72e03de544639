"""Which protocols are read, and what is left of a text that tells keys. Oracle: a list by hand, and a server's log."""

import http.server
import threading

import pytest

from neuclip.foundation.errors import StorageError
from neuclip.storage.files import (
    exists,
    get_file,
    list_files,
    list_folders,
    list_stamps,
    read_bytes,
    remove,
    remove_tree,
    sha256_of,
    size_bytes,
    version_tag,
    write_bytes,
)
from neuclip.storage.places import refusal_of, without_credentials

ACTIONS = {
    action.__name__: action
    for action in (
        *(exists, list_files, list_folders, list_stamps, read_bytes, remove, remove_tree),
        *(sha256_of, size_bytes, version_tag),
    )
}


@pytest.fixture
def asked():
    """A web server on loopback; what it was asked."""
    paths = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"secret")

        do_HEAD = do_GET  # noqa: N815  # a name of the standard library

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", paths
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "uri",
    [
        "http://{0}/x",
        "HTTP://{0}/x",
        "simplecache::http://{0}/x",
        "filecache::http://{0}/x",
        "blockcache::http://{0}/x",
        "zip://a::http://{0}/x",
        "tar://a::http://{0}/x",
        "reference://a::http://{0}/x",
        "webhdfs://{0}/x",
        "jupyter://{0}/x",
    ],
)
def test_no_request_reaches_a_host(asked, action, uri):
    host, paths = asked
    with pytest.raises(StorageError, match="expected a local path"):
        ACTIONS[action](uri.format(host))
    assert paths == []


def test_nothing_is_written_or_copied_there_either(asked, tmp_path):
    host, paths = asked
    for uri in (f"http://{host}/x", "ftp://127.0.0.1/x"):
        with pytest.raises(StorageError, match="expected a local path"):
            write_bytes(uri, b"x")
        with pytest.raises(StorageError, match="expected a local path"):
            get_file(uri, tmp_path / "x")
    assert paths == []


@pytest.mark.parametrize(
    "uri",
    [
        *("lake", "./lake", "/lake", "file:///lake", "a:b", "s3:/bucket/key", "lake/a?b=1"),
        *("s3://bucket", "s3://bucket/a b/c@d", "gs://bucket/key", "az://container/key"),
        "abfs://container@account.dfs.core.windows.net/key",
    ],
)
def test_paths_and_object_storage_are_read(uri):
    assert refusal_of(uri) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("s3://KEY:SECRET@bucket/x", "s3://bucket/x"),
        ("at s3://KEY@bucket/x and", "at s3://bucket/x and"),
        ("https://h/x?X-Amz-Signature=SECRET&a=b, then", "https://h/x then"),
        ("'https://h/x?token=SECRET'", "'https://h/x'"),
        ('<a href="https://u:SECRET@h/x?sig=SECRET">', '<a href="https://h/x">'),
        ("postgres://u:p@ss@h/db", "postgres://h/db"),
        ("mail ada@example.org: why?", "mail ada@example.org: why?"),
        ("s3://bucket/x@y", "s3://bucket/x@y"),
    ],
)
def test_keys_are_left_out_of_a_text(text, left):
    assert without_credentials(text) == left
