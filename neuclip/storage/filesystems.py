"""The fsspec file system of a URI."""

from typing import Any

import fsspec

from neuclip.foundation.errors import StorageError
from neuclip.storage.places import refusal_of, without_credentials
from neuclip.storage.protocols import cannot_open
from neuclip.storage.uris import is_local, local_part

_TRIES = 2
"""Of s3fs, each of them botocore's own tries: a dead endpoint is told soon."""

READ_TIMEOUT_S = 20
"""Without a byte, after which a read of S3 is tried again."""

_IN_MEMORY = "memory://"
"""Asks nobody and keeps nothing: no recipe can name it, since other processes would not see it."""


def filesystem(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URI and the path inside it."""
    if is_local(uri):
        return fsspec.filesystem("file"), str(local_part(uri).absolute())
    if not uri.startswith(_IN_MEMORY) and (why := refusal_of(uri)) is not None:
        raise StorageError(f"cannot open {without_credentials(uri)}: {why}")
    protocol = uri.split("://", 1)[0]
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol == "s3":
        options["config_kwargs"] = {
            "connect_timeout": 5,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"max_attempts": 3, "mode": "standard"},
        }
    try:
        files: Any = fsspec.filesystem(protocol, **options)
    except (
        ValueError,
        TypeError,
        ImportError,
        OSError,
    ) as error:  # no driver, or one that asks for more
        raise cannot_open(without_credentials(uri), protocol) from error
    if protocol == "s3":
        files.retries = _TRIES
    return files, uri
