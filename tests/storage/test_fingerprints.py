"""Oracle: the hash of the bytes that are there now, however they came there; and how many bytes were read for it."""

import hashlib
import os
import shutil
import threading
import time

import fsspec
import pytest

from neuclip.stages.keys import fingerprint
from neuclip.storage import fingerprints
from neuclip.storage.files import list_stamps, version_tag, write_bytes
from neuclip.storage.fingerprints import sha256_of_file

LONG_AGO = time.time() - 1000


@pytest.fixture
def reads(monkeypatch):
    """Paths of the files that were read whole."""
    read = []
    real = fingerprints.content_of_file
    monkeypatch.setattr(
        fingerprints, "content_of_file", lambda path: (read.append(path), real(path))[1]
    )
    return read


@pytest.fixture
def later(monkeypatch):
    """Let some time pass after files were made; the times of change that the kernel keeps cannot be set."""
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 5_000_000_000)


def made(tmp_path, content=b"content"):
    path = tmp_path / "file.tar"
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def right(path):
    return sha256_of_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_stays_is_read_once(tmp_path, reads, later):
    path = made(tmp_path)
    assert [right(path) for _ in range(5)] == [True] * 5
    assert reads == [path]


def test_a_file_that_was_just_written_is_read_each_time(tmp_path, reads):
    path = tmp_path / "file"
    for content in (b"one", b"two", b"six"):
        path.write_bytes(content)
        assert right(path)
        assert right(path)
    assert len(reads) == 6


def rewrite(path):
    path.write_bytes(b"CONTENT")


def flip_a_bit_in_place(path):
    with path.open("r+b") as file:
        file.write(b"d")


def put_another_in_its_place(path):
    other = path.with_name("other")
    other.write_bytes(b"CONTENT")
    os.utime(other, (LONG_AGO, LONG_AGO))
    other.replace(path)


def put_an_older_one_in_its_place(path):
    other = path.with_name("older")
    other.write_bytes(b"CONTENT")
    os.utime(other, (LONG_AGO - 5000, LONG_AGO - 5000))
    other.replace(path)


def link_to_another(path):
    other = path.with_name("other")
    other.write_bytes(b"CONTENT")
    path.unlink()
    path.symlink_to(other)


def cut(path):
    os.truncate(path, 3)


def lengthen(path):
    os.truncate(path, 30)


def write_through_memory(path):
    import mmap

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        content[0:1] = b"X"
        content.flush()


CHANGES = [
    rewrite,
    flip_a_bit_in_place,
    put_another_in_its_place,
    put_an_older_one_in_its_place,
    link_to_another,
    cut,
    lengthen,
    write_through_memory,
]


@pytest.mark.parametrize("set_time_back", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change, set_time_back, tmp_path, later):
    path = made(tmp_path)
    before = sha256_of_file(path)
    time.sleep(0.02)  # longer than the kernel's clock for times of files ticks
    change(path)
    if set_time_back:
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert right(path)
    assert sha256_of_file(path) != before


@pytest.mark.parametrize("damage", [b"", b"x", b"0" * 64 + b"\n", b"\xff" * 200])
def test_a_damaged_entry_is_not_believed(damage, tmp_path, later, cache_of_this_test):
    path = made(tmp_path)
    sha256_of_file(path)
    (entry,) = (p for p in (cache_of_this_test / "fingerprints").rglob("*") if p.is_file())
    line = entry.read_bytes()
    swapped = bytes([line[0] ^ 1]) + line[1:]
    for content in (damage, line[:-1], swapped):
        entry.write_bytes(content)
        assert right(path)


def test_an_entry_of_another_file_is_not_believed(tmp_path, later, cache_of_this_test):
    path = made(tmp_path)
    sha256_of_file(path)
    (entry,) = (p for p in (cache_of_this_test / "fingerprints").rglob("*") if p.is_file())
    other = tmp_path / "other"
    shutil.copy2(path, other)
    other.write_bytes(b"another")
    sha256_of_file(other)
    (of_other,) = (
        p for p in (cache_of_this_test / "fingerprints").rglob("*") if p.is_file() and p != entry
    )
    shutil.copy(entry, of_other)
    assert right(other)


def test_a_cache_that_cannot_be_written_costs_time_alone(
    tmp_path, reads, later, cache_of_this_test
):
    path = made(tmp_path)
    cache_of_this_test.mkdir(mode=0o700)
    (cache_of_this_test / "fingerprints").write_bytes(b"a file where a folder should be")
    assert right(path)
    assert right(path)
    assert len(reads) == 2


def test_many_at_once(tmp_path, later):
    paths = [tmp_path / f"{number}.tar" for number in range(20)]
    for path in paths:
        path.write_bytes(path.name.encode())
    wrong = []

    def work():
        wrong.extend(path for path in paths * 5 if not right(path))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_second_plan_over_many_tars_reads_none(tmp_path, reads, later):
    """38 sets of 10 tars, as a suite has; a second look costs no reading."""
    for number in range(380):
        tar = tmp_path / f"set-{number // 10}" / "test" / f"{number % 10}.tar"
        tar.parent.mkdir(parents=True, exist_ok=True)
        tar.write_bytes(b"")
        os.truncate(tar, 1 << 16)
    sets = [str(tmp_path / f"set-{number}") for number in range(38)]
    first = [fingerprint(uri, (".tar",)) for uri in sets]
    assert len(reads) == 380
    start = time.monotonic()
    assert [fingerprint(uri, (".tar",)) for uri in sets] == first
    assert time.monotonic() - start < 5
    assert len(reads) == 380


@pytest.mark.s3
def test_an_object_is_known_by_its_etag(s3_bucket, reads):
    uri = f"{s3_bucket}/file"
    write_bytes(uri, b"one")
    first = version_tag(uri)
    assert list_stamps(s3_bucket) == {"file": first}
    write_bytes(uri, b"two")
    assert version_tag(uri) != first
    write_bytes(uri, b"one")
    assert version_tag(uri) == first
    assert reads == []


def test_a_size_is_no_version():
    """A storage that tells nothing but the size of a file is read."""
    files = fsspec.filesystem("memory")
    files.pipe_file("/folder/file", b"one")
    first, stamps = version_tag("memory://folder/file"), list_stamps("memory://folder")
    files.pipe_file("/folder/file", b"two")
    assert version_tag("memory://folder/file") != first
    assert list_stamps("memory://folder") != stamps
    assert list(stamps) == ["file"]


def test_stamps_of_local_files_change_with_their_bytes(tmp_path):
    path = made(tmp_path)
    before = list_stamps(str(tmp_path))
    time.sleep(0.02)
    flip_a_bit_in_place(path)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert list_stamps(str(tmp_path)) != before
