"""Read, write, list and remove files at any URI."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec

from neuclip.foundation.errors import StorageError, TransientStorageError
from neuclip.storage.uris import is_local, join, local_part

_HASH_BLOCK_BYTES = 1 << 20
_TRIES = 2
"""Of s3fs, each of them botocore's own tries: a dead endpoint is told soon."""
_BUSY = (errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO))
"""What s3fs makes of SlowDown, ServiceUnavailable and InternalError; RequestTimeout becomes TimeoutError."""
_UNREACHABLE = (
    botocore.exceptions.EndpointConnectionError,
    botocore.exceptions.ConnectionClosedError,
    botocore.exceptions.HTTPClientError,
)


@contextmanager
def explained(action: str, uri: str) -> Generator[None]:
    """Turn what the file systems raise into one StorageError that says what to do."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"cannot {action} {uri}: there is no such file or bucket") from error
    except botocore.exceptions.NoCredentialsError as error:
        message = f"cannot {action} {uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StorageError(message) from error
    except PermissionError as error:
        message = f"cannot {action} {uri}: permission denied; check the file mode, or the AWS_* keys and bucket policy"
        raise StorageError(message) from error
    except _UNREACHABLE as error:
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or "the default S3 endpoint"
        )
        message = f"cannot {action} {uri}: no answer from {endpoint}; check the network and AWS_ENDPOINT_URL"
        raise TransientStorageError(message) from error
    except aiohttp.ClientError as error:
        raise TransientStorageError(
            f"cannot {action} {uri}: the answer broke off: {error}"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"cannot {action} {uri}: the disk is full; free space or choose another root, then run again"
            raise StorageError(message) from error
        is_busy = isinstance(error, TimeoutError) or error.errno in _BUSY
        kind = TransientStorageError if is_busy and not is_local(uri) else StorageError
        raise kind(f"cannot {action} {uri}: {error}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise StorageError(f"cannot {action} {uri}: {error}") from error


def filesystem(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URI and the path inside it."""
    if is_local(uri):
        return fsspec.filesystem("file"), str(local_part(uri).absolute())
    protocol = uri.split("://", 1)[0]
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol == "s3":
        options["config_kwargs"] = {
            "connect_timeout": 5,
            "read_timeout": 20,  # seconds without a byte
            "retries": {"max_attempts": 3, "mode": "standard"},
        }
    try:
        files: Any = fsspec.filesystem(protocol, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(
            f"cannot open {uri}: storage protocol {protocol!r} is not known or not installed"
        ) from error
    if protocol == "s3":
        files.retries = _TRIES
    return files, uri


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
    """Read a whole file."""
    with explained("read", uri):
        files, path = filesystem(uri)
        content: bytes = files.cat_file(path)
        return content


def write_bytes(uri: str, content: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part."""
    with explained("write", uri):
        if not is_local(uri):
            files, path = filesystem(uri)
            files.pipe_file(path, content)
            return
        target = local_part(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def put_file(path: Path, uri: str) -> None:
    """Move a finished local file to its URI: a rename on the same disk, an upload to object storage."""
    with explained("write", uri):
        if is_local(uri):
            target = local_part(uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
                try:
                    shutil.copyfile(path, unfinished)
                    unfinished.replace(target)
                finally:
                    unfinished.unlink(missing_ok=True)
                path.unlink()
        else:
            upload(path, uri)
            path.unlink()


def upload(path: Path, uri: str) -> None:
    """Copy a local file to object storage."""
    with explained("write", uri):
        files, remote = filesystem(uri)
        files.put_file(str(path), remote)


def get_file(uri: str, path: Path) -> None:
    """Copy a file to a local path, whole or not at all."""
    with explained("read", uri):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        files, remote = filesystem(uri)
        try:
            files.get_file(remote, str(unfinished))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


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
    digest = hashlib.sha256()
    with explained("read", uri):
        files, path = filesystem(uri)
        with files.open(path, "rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def version_tag(uri: str) -> str:
    """Return what tells one content of a file from another without reading much.

    A local file is hashed; an object is known by its ETag and size, which storage keeps for it.
    """
    if is_local(uri):
        return sha256_of(uri)
    with explained("look up", uri):
        files, path = filesystem(uri)
        return _object_tag(files.info(path))


def list_stamps(folder_uri: str) -> dict[str, str]:
    """List all files below a folder with what changes when one is written again: name relative to it -> stamp.

    An object's stamp is its version tag; that of a local file is its size and its time of modification. One listing,
    nothing is read.
    """
    with explained("list", folder_uri):
        if is_local(folder_uri):
            folder = local_part(folder_uri)
            found = {
                path.relative_to(folder).as_posix(): path.stat()
                for path in folder.rglob("*")
                if path.is_file()
            }
            return {name: f"{info.st_mtime_ns}:{info.st_size}" for name, info in found.items()}
        files, path = filesystem(folder_uri)
        prefix = files._strip_protocol(path).rstrip("/") + "/"
        return {
            name.removeprefix(prefix): _object_tag(info)
            for name, info in files.find(path, detail=True).items()
            if name.startswith(prefix)
        }


def _object_tag(info: dict[str, Any]) -> str:
    return f"{str(info.get('ETag', '')).strip(chr(34))}:{info['size']}"


def expand(uri: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the file itself, or the files with one of the suffixes below a folder, in name order."""
    if uri.endswith(suffixes):
        return [uri]
    return [join(uri, name) for name in list_files(uri) if name.endswith(suffixes)]
