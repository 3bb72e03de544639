"""What storage says of an object, and whether what arrived here or there is that object.

An answer of status 200 may be an error's text, or a part of the object. So what arrives is held against the size and,
where storage tells it, the MD5 of the whole object, and is asked for again if it differs.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import botocore.exceptions
from fsspec.asyn import sync

from neuclip.foundation.errors import TransientStorageError
from neuclip.storage.filesystems import filesystem
from neuclip.storage.uris import is_local, local_part

log = logging.getLogger(__name__)

_PAUSES_S = (0.2, 1)
_BLOCK_BYTES = 1 << 20
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_VERSIONS = ("ETag", "etag", "generation", "VersionId", "version_id", "md5Hash", "Content-MD5")
"""What the file systems call that which storage changes whenever an object is written."""

_T = TypeVar("_T")


class Broken(Exception):  # noqa: N818  # never leaves this room
    """What arrived is not what storage has."""


_BROKEN = (
    Broken,
    aiohttp.ClientPayloadError,
    botocore.exceptions.ChecksumError,
    botocore.exceptions.FlexibleChecksumError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
)
"""Ours, and the same said by the libraries."""


@dataclass(frozen=True)
class Content:
    """Size and hashes of some bytes; MD5 is what S3 calls an object by, nothing here trusts in it."""

    size_bytes: int
    sha256: str
    md5: str | None


@dataclass(frozen=True)
class Told:
    """What storage says of an object; None where it does not."""

    size_bytes: int | None
    md5: str | None
    version: str | None
    """Another one whenever the object is written, with its size."""

    def check(self, size_bytes: int, md5: str | None) -> None:
        """Compare what arrived.

        Args:
            md5: needed where storage tells it.
        Raises: Broken: with the difference.
        """
        if self.size_bytes not in (None, size_bytes):
            raise Broken(f"{size_bytes} bytes arrived, {self.size_bytes} are there")
        if self.md5 not in (None, md5):
            raise Broken(f"bytes of MD5 {md5} arrived, those there have {self.md5}")


def told(uri: str) -> Told:
    """Ask storage about a file."""
    files, path = filesystem(uri)
    if is_local(uri):
        return Told(local_part(uri).stat().st_size, None, None)
    if not uri.startswith("s3://"):
        info = files.info(path)
        return Told(info.get("size"), None, version_of(info, info.get("size")))
    return _told_by(files.call_s3("head_object", **_place(files, path)))


def get_bytes(uri: str) -> bytes:
    """Get a whole object, held against what storage says of it: in the same answer, for it may be written meanwhile.

    Raises: Broken: if it is not that.
    """
    files, path = filesystem(uri)
    if not uri.startswith("s3://"):
        there = told(uri)
        content: Any = files.cat_file(path)
    else:
        answer = files.call_s3("get_object", **_place(files, path))
        content = sync(files.loop, answer["Body"].read)
        # What stands in for storage and answers with the text of an error knows no ETag.
        there = _told_by(answer) if "ETag" in answer else told(uri)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    there.check(len(content), md5)
    return bytes(content)


def _place(files: Any, path: str) -> dict[str, str]:  # noqa: ANN401  # fsspec has no types
    bucket, key, version = files.split_path(path)
    return {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}


def _told_by(answer: dict[str, Any]) -> Told:
    """Return what S3 says; the ETag of an object that is encrypted, or was stored in parts, is not its MD5."""
    size = int(answer["ContentLength"])
    plain = None if answer.get("ServerSideEncryption") else _MD5.fullmatch(answer.get("ETag", ""))
    return Told(size, plain and plain[1], version_of(answer, size))


def version_of(info: dict[str, Any], size_bytes: int | None) -> str | None:
    """Return the version in what a file system says of an object, with its size; None if there is none.

    A size alone is no version, nor is a weak ETag, which other bytes may share.
    """
    for name in _VERSIONS:
        version = str(info.get(name) or "").strip('"')
        if version and not version.startswith("W/"):
            return f"{version}:{size_bytes}"
    return None


def content_of_file(path: Path, *, with_md5: bool = False) -> Content:
    """Read a file and return its size and hashes."""
    with path.open("rb", buffering=0) as file:
        return content_of(file.read, with_md5=with_md5)


def content_of(read: Callable[[int], bytes], *, with_md5: bool = False) -> Content:
    """Read to the end and return size and hashes."""
    size, sha256 = 0, hashlib.sha256()
    md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
    while block := read(_BLOCK_BYTES):
        size += len(block)
        sha256.update(block)
        if md5 is not None:
            md5.update(block)
    return Content(size, sha256.hexdigest(), md5 and md5.hexdigest())


def again_if_broken(action: str, uri: str, transfer: Callable[[], _T]) -> _T:
    """Do a transfer, and do it again if it was broken.

    Raises: TransientStorageError: if it is broken every time.
    """
    for pause_s in _PAUSES_S:
        try:
            return transfer()
        except _BROKEN as broken:
            log.warning("cannot %s %s: %s; next try in %g s", action, uri, broken, pause_s)
            time.sleep(pause_s)
    try:
        return transfer()
    except _BROKEN as broken:
        raise TransientStorageError(
            f"cannot {action} {uri}: {broken}, {len(_PAUSES_S) + 1} times; check the network and what stands between "
            "this machine and storage (proxy, gateway), then run again"
        ) from None
