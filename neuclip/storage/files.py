"""Read, write, list and remove files at any URI."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from neuclip.foundation.errors import IntegrityError
from neuclip.storage.failures import explained
from neuclip.storage.filesystems import filesystem
from neuclip.storage.fingerprints import sha256_of_file
from neuclip.storage.transfers import (
    Broken,
    Content,
    again_if_broken,
    content_of,
    content_of_file,
    get_bytes,
    told,
    version_of,
)
from neuclip.storage.uris import is_local, join, local_part


def exists(uri: str) -> bool:
    """Tell whether a file or folder is there."""
    with explained("look up", uri):
        if is_local(uri):
            return local_part(uri).exists()
        files, path = filesystem(uri)
        return bool(files.exists(path))


def list_files(folder_uri: str) -> dict[str, int]:
    """List all files below a folder: name relative to it -> size in bytes, sorted; empty if there is no folder."""
    with explained("list", folder_uri):
        if is_local(folder_uri):
            folder = local_part(folder_uri)
            found = {
                p.relative_to(folder).as_posix(): p.stat().st_size
                for p in folder.rglob("*")
                if p.is_file()
            }
        else:
            files, path = filesystem(folder_uri)
            prefix = files._strip_protocol(path).rstrip("/") + "/"
            found = {
                name.removeprefix(prefix): int(info["size"])
                for name, info in files.find(path, detail=True).items()
                if name.startswith(prefix)
            }
    return dict(sorted(found.items()))


def list_folders(folder_uri: str) -> list[str]:
    """List the names of the folders directly below a folder, sorted; empty if there is none."""
    if is_local(folder_uri):
        folder = local_part(folder_uri)
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    with explained("list", folder_uri):
        files, path = filesystem(folder_uri)
        try:
            entries = files.ls(path, detail=True)
        except FileNotFoundError:
            return []
        return sorted(
            entry["name"].rstrip("/").rsplit("/", 1)[-1]
            for entry in entries
            if entry["type"] == "directory"
        )


def size_bytes(uri: str) -> int:
    """Return the size of a file."""
    with explained("look up", uri):
        files, path = filesystem(uri)
        return int(files.size(path))


def read_bytes(uri: str) -> bytes:
    """Read a whole file.

    Raises: TransientStorageError: if other bytes arrive than storage has, time after time.
    """
    with explained("read", uri):
        if is_local(uri):
            return local_part(uri).read_bytes()
        return again_if_broken("read", uri, lambda: get_bytes(uri))


def write_bytes(uri: str, content: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part."""
    with explained("write", uri):
        if is_local(uri):
            with _unfinished(local_part(uri)) as path:
                path.write_bytes(content)
            return
        files, path = filesystem(uri)
        _put(uri, lambda: files.pipe_file(path, content), len(content), lambda: _md5(content))


def put_file(path: Path, uri: str) -> None:
    """Move a finished local file to its URI: a rename on the same disk, an upload to object storage."""
    with explained("write", uri):
        if not is_local(uri):
            upload(path, uri)
            path.unlink()
            return
        target = local_part(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        to_disk(path)
        try:
            path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with _unfinished(target) as copy:
                shutil.copyfile(path, copy)
            path.unlink()
        to_disk(target.parent)


def upload(path: Path, uri: str) -> None:
    """Copy a local file to object storage.

    Raises: TransientStorageError: if storage then has other bytes than were sent, time after time.
    """
    with explained("write", uri):
        files, remote = filesystem(uri)
        _put(
            uri,
            lambda: files.put_file(str(path), remote),
            path.stat().st_size,
            lambda: content_of_file(path, with_md5=True).md5,
        )


def get_file(
    uri: str, path: Path, *, size_bytes: int | None = None, sha256: str | None = None
) -> str:
    """Copy a file to a local path, whole or not at all; return its SHA-256.

    Args:
        size_bytes: what it must have.
        sha256: what it must have.

    Raises:
        IntegrityError: if storage has another file than that, which was told twice.
        TransientStorageError: if other bytes arrive than storage has, time after time.
    """
    wrong: set[str] = set()

    def get() -> str:
        files, remote = filesystem(uri)
        expected = told(uri)
        with _unfinished(path) as copy:
            files.get_file(remote, str(copy))
            found = content_of_file(copy, with_md5=expected.md5 is not None)
            expected.check(found.size_bytes, found.md5)
            difference = _difference(found, size_bytes, sha256)
            if difference in wrong:
                raise IntegrityError(f"{uri} {difference}; it was changed after its commit")
            if difference:
                wrong.add(difference)
                raise Broken(f"it {difference}")
        return found.sha256

    with explained("read", uri):
        return again_if_broken("read", uri, get)


def _difference(found: Content, size_bytes: int | None, sha256: str | None) -> str:
    """Say in what a file is another than was asked for; empty if it is that one."""
    if size_bytes not in (None, found.size_bytes):
        return f"has {found.size_bytes} bytes, expected {size_bytes}"
    if sha256 not in (None, found.sha256):
        return f"has SHA-256 {found.sha256[:16]}..., expected {str(sha256)[:16]}..."
    return ""


def _put(
    uri: str, write: Callable[[], object], size_bytes: int, md5: Callable[[], str | None]
) -> None:
    """Write an object, and make sure that storage has it: an answer of status 200 may be an error's."""

    def put() -> None:
        write()
        try:
            there = told(uri)
        except FileNotFoundError:
            raise Broken("it is not there after it was written") from None
        there.check(size_bytes, there.md5 and md5())

    again_if_broken("write", uri, put)


@contextmanager
def _unfinished(target: Path) -> Generator[Path]:
    """Give a path beside a file for its new content, which takes its place when it is on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield path
        to_disk(path)
        path.replace(target)
        to_disk(target.parent)
    finally:
        path.unlink(missing_ok=True)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def to_disk(path: Path) -> None:
    """Make the operating system write a local file, or the names in a folder, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(uri: str) -> None:
    """Remove one file if it is there."""
    with explained("remove", uri):
        files, path = filesystem(uri)
        if files.exists(path):
            files.rm_file(path)


def remove_tree(folder_uri: str) -> None:
    """Remove a folder and all below it if it is there."""
    with explained("remove", folder_uri):
        files, path = filesystem(folder_uri)
        if files.exists(path):
            files.rm(path, recursive=True)


def sha256_of(uri: str) -> str:
    """Return the SHA-256 of a file's content as hex."""

    def read() -> str:
        files, path = filesystem(uri)
        expected = told(uri)
        with files.open(path, "rb") as file:
            found = content_of(file.read, with_md5=expected.md5 is not None)
        expected.check(found.size_bytes, found.md5)
        return found.sha256

    with explained("read", uri):
        return again_if_broken("read", uri, read)


def version_tag(uri: str) -> str:
    """Return what tells one content of a file from another, reading as little as that takes.

    A local file is known by its hash, which is remembered until it is written; an object by the ETag or version that
    storage has for it; a file that nothing else is known of is read.
    """
    with explained("look up", uri):
        if is_local(uri):
            return sha256_of_file(local_part(uri))
        there = told(uri)
    return there.version or sha256_of(uri)


def list_stamps(folder_uri: str) -> dict[str, str]:
    """List all files below a folder with what changes when one is written again: name relative to it -> stamp.

    An object's stamp is its version tag; that of a local file is its times of modification and of change, its inode and
    its size. One listing, nothing is read but objects of a storage that has no versions.
    """
    with explained("list", folder_uri):
        if is_local(folder_uri):
            folder = local_part(folder_uri)
            found = {
                path.relative_to(folder).as_posix(): path.stat()
                for path in folder.rglob("*")
                if path.is_file()
            }
            return {
                name: f"{info.st_mtime_ns}:{info.st_ctime_ns}:{info.st_ino}:{info.st_size}"
                for name, info in found.items()
            }
        files, path = filesystem(folder_uri)
        prefix = files._strip_protocol(path).rstrip("/") + "/"
        return {
            name.removeprefix(prefix): version_of(info, info["size"])
            or sha256_of(files.unstrip_protocol(name))
            for name, info in files.find(path, detail=True).items()
            if name.startswith(prefix)
        }


def expand(uri: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the file itself, or the files with one of the suffixes below a folder, in name order."""
    if uri.endswith(suffixes):
        return [uri]
    return [join(uri, name) for name in list_files(uri) if name.endswith(suffixes)]
