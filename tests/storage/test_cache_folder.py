"""Oracle: file modes. A folder that somebody else can write to is not trusted, whatever lies in it."""

import os
import stat
import tempfile

import pytest

from neuclip.foundation.errors import StorageError
from neuclip.storage.cache_folder import cache_folder
from neuclip.storage.fingerprints import sha256_of_file

SOMEBODY = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")


def test_it_is_made_for_this_user_alone(cache_of_this_test):
    before = os.umask(0)
    try:
        assert cache_folder() == cache_of_this_test
    finally:
        os.umask(before)
    assert stat.S_IMODE(cache_of_this_test.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o2770, 0o720, 0o702])
def test_one_that_others_can_write_to_is_refused(mode, cache_of_this_test):
    cache_of_this_test.mkdir()
    cache_of_this_test.chmod(mode)
    with pytest.raises(StorageError, match=f"chmod go-w {cache_of_this_test}.*NEUCLIP_CACHE"):
        cache_folder()


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o711])
def test_one_that_others_can_only_read_is_used(mode, cache_of_this_test):
    cache_of_this_test.mkdir()
    cache_of_this_test.chmod(mode)
    assert cache_folder() == cache_of_this_test


@needs_root
def test_one_of_another_user_is_refused(cache_of_this_test):
    cache_of_this_test.mkdir(mode=0o700)
    os.chown(cache_of_this_test, SOMEBODY, SOMEBODY)
    with pytest.raises(StorageError, match=f"belongs to user {SOMEBODY}, expected user 0"):
        cache_folder()


@needs_root
def test_a_link_of_another_user_is_refused(cache_of_this_test, tmp_path):
    (tmp_path / "mine").mkdir(mode=0o700)
    cache_of_this_test.symlink_to(tmp_path / "mine")
    assert cache_folder() == cache_of_this_test  # a link of one's own is fine
    os.chown(cache_of_this_test, SOMEBODY, SOMEBODY, follow_symlinks=False)
    with pytest.raises(StorageError, match=f"is a link of user {SOMEBODY}"):
        cache_folder()


def test_a_link_to_a_folder_of_others_is_refused(cache_of_this_test, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    cache_of_this_test.symlink_to(tmp_path / "shared")
    with pytest.raises(StorageError, match="can be written to by others"):
        cache_folder()


@pytest.mark.parametrize("what", ["a file", "a dangling link", "below a file"])
def test_what_is_no_folder_is_told(what, cache_of_this_test, tmp_path, monkeypatch):
    if what == "a dangling link":
        cache_of_this_test.symlink_to(tmp_path / "absent")
    else:
        cache_of_this_test.write_bytes(b"")
    if what == "below a file":
        monkeypatch.setenv("NEUCLIP_CACHE", str(cache_of_this_test / "cache"))
    with pytest.raises(StorageError, match=r"cannot be used: .*; set NEUCLIP_CACHE to a folder"):
        cache_folder()


def test_no_name_means_a_folder_of_this_user(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("NEUCLIP_CACHE", "")
    assert cache_folder() == tmp_path / f"neuclip-cache-{os.getuid()}"


def test_hashing_refuses_it_too(cache_of_this_test, tmp_path):
    cache_of_this_test.mkdir()
    cache_of_this_test.chmod(0o777)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match="can be written to by others"):
        sha256_of_file(tmp_path / "file")
