"""Oracle: what a file is by its definition, the same on a folder and on an S3 server."""

import hashlib
import threading

import pytest

from neuclip.foundation.errors import StorageError
from neuclip.storage.cache import local_copy, local_folder
from neuclip.storage.files import (
    exists,
    expand,
    filesystem,
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
from neuclip.storage.uris import join

CONTENTS = {
    "a.txt": b"first",
    "deep/b.bin": bytes(range(256)) * 40,
    "deep/down/c": b"",
    "z.tar": b"z",
}


@pytest.fixture
def filled(place):
    for name, content in CONTENTS.items():
        write_bytes(join(place, name), content)
    return place


def test_what_was_written_is_read(filled):
    for name, content in CONTENTS.items():
        uri = join(filled, name)
        assert read_bytes(uri) == content
        assert size_bytes(uri) == len(content)
        assert sha256_of(uri) == hashlib.sha256(content).hexdigest()
        assert exists(uri)


def test_listing_is_complete_and_sorted(filled):
    assert list(list_files(filled).items()) == [
        (name, len(CONTENTS[name])) for name in sorted(CONTENTS)
    ]
    assert list_files(join(filled, "deep")) == {"b.bin": 10240, "down/c": 0}
    assert list_folders(filled) == ["deep"]
    assert list_folders(join(filled, "deep")) == ["down"]


def test_more_than_a_page_of_a_listing(place):
    """S3 lists a thousand at once."""
    names = [f"{number:04d}" for number in range(1005)]
    write_bytes(join(place, "many", names[0]), b"x")
    files, path = filesystem(join(place, "many"))
    files.pipe({f"{path}/{name}": b"x" for name in names[1:]})
    assert list(list_files(join(place, "many"))) == names


def test_nothing_there(place):
    assert not exists(place)
    assert not exists(join(place, "a"))
    assert list_files(place) == {}
    assert list_folders(place) == []
    remove(join(place, "a"))
    remove_tree(place)
    for look in (read_bytes, size_bytes, sha256_of, version_tag):
        with pytest.raises(StorageError, match="no such file or bucket") as caught:
            look(join(place, "absent.bin"))
        assert join(place, "absent.bin") in str(caught.value)


def test_a_name_that_begins_like_another_is_not_below_it(place):
    write_bytes(join(place, "key/x"), b"1")
    write_bytes(join(place, "key-2/x"), b"2")
    assert list_files(join(place, "key")) == {"x": 1}
    remove_tree(join(place, "key"))
    assert list_files(place) == {"key-2/x": 1}


def test_removed_is_gone_and_the_rest_stays(filled):
    remove(join(filled, "a.txt"))
    assert not exists(join(filled, "a.txt"))
    remove_tree(join(filled, "deep"))
    assert not exists(join(filled, "deep"))
    assert list(list_files(filled)) == ["z.tar"]


def test_rewritten_at_once_seen(filled):
    """No listing or content of before is remembered."""
    uri = join(filled, "a.txt")
    before = version_tag(uri)
    assert len(list_files(filled)) == 4
    write_bytes(uri, b"second, longer")
    write_bytes(join(filled, "new"), b"n")
    assert read_bytes(uri) == b"second, longer"
    assert list_files(filled)["a.txt"] == 14
    assert "new" in list_files(filled)
    assert version_tag(uri) != before
    write_bytes(uri, b"first")
    assert version_tag(uri) == before


def test_put_moves_and_get_copies(place, tmp_path):
    source = tmp_path / "here" / "file.bin"
    source.parent.mkdir()
    source.write_bytes(b"content")
    uri = join(place, "there", "file.bin")
    put_file(source, uri)
    assert not source.exists()
    assert read_bytes(uri) == b"content"
    get_file(uri, tmp_path / "back" / "file.bin")
    assert (tmp_path / "back" / "file.bin").read_bytes() == b"content"
    assert list_files(place) == {"there/file.bin": 7}
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["file.bin"]


def test_a_failed_get_leaves_what_was_there(place, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"old")
    write_bytes(join(place, "other"), b"")
    with pytest.raises(StorageError):
        get_file(join(place, "absent"), target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_upload_keeps_its_source(place, tmp_path):
    source = tmp_path / "file"
    source.write_bytes(b"content")
    write_bytes(join(place, "folder/before"), b"")
    upload(source, join(place, "folder/file"))
    assert source.read_bytes() == b"content"
    assert read_bytes(join(place, "folder/file")) == b"content"


def test_expand(filled):
    assert expand(filled, (".txt", ".tar")) == [join(filled, "a.txt"), join(filled, "z.tar")]
    assert expand(join(filled, "a.txt"), (".txt",)) == [join(filled, "a.txt")]
    assert expand(filled, (".parquet",)) == []


def test_a_large_file_in_parts(place, tmp_path):
    """60 MB go up in several parts and come back as they were."""
    content = bytes(range(256)) * 240_000
    source = tmp_path / "large"
    source.write_bytes(content)
    put_file(source, join(place, "large"))
    assert sha256_of(join(place, "large")) == hashlib.sha256(content).hexdigest()
    get_file(join(place, "large"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_a_reader_sees_one_writing_or_the_other(place):
    """Each content is one letter, of a length of its own; a mixture or a part would show."""
    uri = join(place, "pointer")
    contents = [letter * size for letter, size in ((b"a", 300_001), (b"b", 700_003), (b"c", 11))]
    write_bytes(uri, contents[0])
    stop, seen, wrong = threading.Event(), set(), []

    def read():
        while not stop.is_set():
            content = read_bytes(uri)
            if content in contents:
                seen.add(content[:1])
            else:
                wrong.append((content[:1], len(content)))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        write_bytes(uri, contents[number % 3])
    stop.set()
    reader.join()
    assert not wrong
    assert seen
    assert list(list_files(place)) == ["pointer"]


def test_local_copies_are_the_files_themselves(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    assert local_copy(str(tmp_path / "x")) == tmp_path / "x"
    assert local_copy(f"file://{tmp_path}/x") == tmp_path / "x"
    assert local_folder(str(tmp_path)) == tmp_path


@pytest.mark.s3
def test_a_replaced_object_is_fetched_anew(s3_bucket, cache_of_this_test):
    uri = f"{s3_bucket}/table.parquet"
    write_bytes(uri, b"one")
    first = local_copy(uri)
    assert first.read_bytes() == b"one"
    assert first.is_relative_to(cache_of_this_test)
    assert first.suffix == ".parquet"
    assert local_copy(uri) == first
    write_bytes(uri, b"two")
    second = local_copy(uri)
    assert second.read_bytes() == b"two"
    assert first.read_bytes() == b"one"  # whoever reads the old copy goes on reading it


@pytest.mark.s3
def test_a_folder_with_a_replaced_object_is_fetched_anew(s3_bucket):
    for name in ("a", "deep/b"):
        write_bytes(f"{s3_bucket}/folder/{name}", name.encode())
    first = local_folder(f"{s3_bucket}/folder")
    assert {p.name: p.read_bytes() for p in first.rglob("*") if p.is_file()} == {
        "a": b"a",
        "b": b"deep/b",
    }
    write_bytes(f"{s3_bucket}/folder/deep/b", b"changed")
    second = local_folder(f"{s3_bucket}/folder")
    assert second != first
    assert (second / "deep/b").read_bytes() == b"changed"
