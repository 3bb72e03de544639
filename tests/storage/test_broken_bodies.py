"""Oracle: the bytes that were stored. What arrives differently is asked for again, and never kept."""

import hashlib
import itertools
import os
import shutil
from itertools import product
from pathlib import Path

import pytest
import s3fs
from servers.relay import ERROR_XML, relay_to

from neuclip.foundation.errors import IntegrityError, TransientStorageError
from neuclip.storage import transfers
from neuclip.storage.bounded import BoundedCache
from neuclip.storage.cache import local_copy, local_folder
from neuclip.storage.files import (
    get_file,
    list_files,
    put_file,
    read_bytes,
    sha256_of,
    upload,
    write_bytes,
)

pytestmark = pytest.mark.s3

CONTENT = bytes(range(256)) * 20
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def flipped(body: bytes) -> bytes:
    return body[:1000] + bytes([body[1000] ^ 4]) + body[1001:]


DAMAGES = {
    "the text of an error": lambda body: ERROR_XML,
    "shorter": lambda body: body[:-1],
    "empty": lambda body: b"",
    "longer": lambda body: body + b"\0",
    "one bit": flipped,
    "another object": lambda body: body[::-1],
}


@pytest.fixture
def relay(s3_environment, s3_bucket, monkeypatch):
    monkeypatch.setattr(transfers, "_PAUSES_S", (0, 0))
    with relay_to(s3_environment["AWS_ENDPOINT_URL"]) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield relay
    s3fs.S3FileSystem.clear_instance_cache()


def spoil_bodies(relay, damage, *, times):
    relay.spoiled = 0

    def spoil(request, answer):
        is_object = request.startswith("GET") and "?" not in request and answer.status < 300
        if is_object and relay.spoiled < times:
            relay.spoiled += 1
            answer.status, answer.body = 200, damage(answer.body)

    relay.spoil_answer = spoil


def readers(uri, tmp_path):
    bounded = BoundedCache(tmp_path / "bounded", limit_bytes=10**6)

    def fetch():
        bounded.fetch(uri, size_bytes=len(CONTENT), sha256=SHA256)
        return bounded.path_of(SHA256).read_bytes()

    def get():
        get_file(uri, tmp_path / "got")
        return (tmp_path / "got").read_bytes()

    return {
        "read_bytes": lambda: read_bytes(uri),
        "get_file": get,
        "local_copy": lambda: local_copy(uri).read_bytes(),
        "local_folder": lambda: local_folder(uri.rsplit("/", 1)[0]).joinpath("file").read_bytes(),
        "sha256_of": lambda: CONTENT if sha256_of(uri) == SHA256 else b"another",
        "BoundedCache": fetch,
    }


READERS = list(readers("s3://x/y", Path("x")))


@pytest.mark.parametrize("says_checksums", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("reader", READERS)
def test_a_body_that_is_broken_once_is_asked_for_again(
    reader, says_checksums, relay, s3_bucket, tmp_path
):
    relay.says_checksums = says_checksums
    for name, damage in DAMAGES.items():
        uri = f"{s3_bucket}/{name}/file"
        write_bytes(uri, CONTENT)
        spoil_bodies(relay, damage, times=1)
        assert readers(uri, tmp_path / name)[reader]() == CONTENT, name
        assert relay.spoiled == 1


@pytest.mark.parametrize(
    "reader",
    [
        "read_bytes",
        "local_copy",
        *(
            pytest.param(r, marks=pytest.mark.slow)
            for r in ("get_file", "local_folder", "sha256_of")
        ),
    ],
)
def test_a_body_that_is_always_broken_is_never_kept(reader, relay, s3_bucket, tmp_path):
    relay.says_checksums = False
    for name, damage in DAMAGES.items():
        uri = f"{s3_bucket}/{name}/file"
        write_bytes(uri, CONTENT)
        spoil_bodies(relay, damage, times=10**6)
        read = readers(uri, tmp_path / name)[reader]
        if (reader, name) == ("sha256_of", "longer"):  # it asks for no more than is there
            assert read() == CONTENT
            continue
        with pytest.raises(TransientStorageError) as caught:
            read()
        assert uri in str(caught.value)
        kept = [p for p in tmp_path.rglob("*") if p.is_file() and "fingerprints" not in p.parts]
        assert kept == [], name
        spoil_bodies(relay, damage, times=0)
        assert read() == CONTENT
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


def test_an_object_that_is_another_than_was_committed_is_told_from_a_broken_body(
    relay, s3_bucket, tmp_path
):
    """A broken body may pass; an object that is the wrong one, the same each time, does not."""
    uri = f"{s3_bucket}/file"
    write_bytes(uri, flipped(CONTENT))
    with pytest.raises(IntegrityError, match=f"{uri} has SHA-256 .*expected {SHA256[:16]}"):
        get_file(uri, tmp_path / "got", size_bytes=len(CONTENT), sha256=SHA256)
    write_bytes(uri, CONTENT[:-1])
    with pytest.raises(IntegrityError, match=r"has 5119 bytes, expected 5120"):
        get_file(uri, tmp_path / "got", size_bytes=len(CONTENT), sha256=SHA256)
    assert not (tmp_path / "got").exists()


KEPT_BACK = {
    "not stored": lambda body: None,
    "stored shorter": lambda body: body[:-1],
    "stored empty": lambda body: b"",
    "stored with one bit changed": flipped,
}


@pytest.mark.parametrize(
    "writer",
    ["write_bytes", *(pytest.param(w, marks=pytest.mark.slow) for w in ("upload", "put_file"))],
)
def test_what_is_stored_differently_is_written_again(writer, relay, s3_bucket, tmp_path):
    """The relay answers 200 in any case."""
    for (name, damage), times in product(KEPT_BACK.items(), (1, 99)):
        _write_through(writer, f"{s3_bucket}/{name}/{times}", relay, damage, times, tmp_path)


def _write_through(writer, uri, relay, damage, times, tmp_path):
    path, passed = tmp_path / "file", itertools.count()
    path.write_bytes(CONTENT)
    relay.spoil_request = lambda request, body: (
        damage(_plain(body)) if request.startswith("PUT") and next(passed) < times else body
    )
    write = {
        "write_bytes": lambda: write_bytes(uri, CONTENT),
        "upload": lambda: upload(path, uri),
        "put_file": lambda: put_file(path, uri),
    }[writer]
    if times == 1:
        write()
        assert read_bytes(uri) == CONTENT
        return
    with pytest.raises(TransientStorageError, match=f"cannot write {uri}"):
        write()
    assert path.read_bytes() == CONTENT


def _plain(body: bytes) -> bytes:
    """Return the content of a request, without the frames of its chunks if it has them."""
    return CONTENT if CONTENT in body else body


@pytest.mark.parametrize("touch", ["changed", "truncated", "emptied", "gone"])
def test_a_copy_is_not_trusted_because_of_its_name(touch, relay, s3_bucket):
    uri = f"{s3_bucket}/file"
    write_bytes(uri, CONTENT)
    path = local_copy(uri)
    before = path.stat()
    relay.requests.clear()
    assert local_copy(uri) == path
    assert relay.count("GET") == 0  # a good copy is not fetched again
    if touch == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"changed": flipped(CONTENT), "truncated": CONTENT[:9], "emptied": b""}[touch]
        )
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert local_copy(uri).read_bytes() == CONTENT


def test_a_shard_in_the_bounded_cache_is_not_trusted_because_of_its_name(
    relay, s3_bucket, tmp_path
):
    uri = f"{s3_bucket}/file"
    write_bytes(uri, CONTENT)
    cache = BoundedCache(tmp_path / "bounded", limit_bytes=10**6)
    for content in (CONTENT, flipped(CONTENT), b""):
        cache.fetch(uri, size_bytes=len(CONTENT), sha256=SHA256)
        cache.path_of(SHA256).write_bytes(content)
    relay.requests.clear()
    cache.fetch(uri, size_bytes=len(CONTENT), sha256=SHA256)
    assert cache.path_of(SHA256).read_bytes() == CONTENT
    cache.fetch(uri, size_bytes=len(CONTENT), sha256=SHA256)
    assert relay.count("GET") == 1
    assert list_files(str(tmp_path / "bounded" / "arriving")) == {}
