"""Which package opens a storage protocol that is not installed."""

from fsspec.registry import known_implementations

from neuclip.foundation.errors import StorageError


def cannot_open(uri: str, protocol: str) -> StorageError:
    """Return the error for a protocol whose driver is missing or does not start."""
    package = known_implementations.get(protocol, {}).get("class", protocol).split(".")[0]
    return StorageError(
        f"cannot open {uri}: {protocol} needs the package {package}: `pip install {package}`, or use another root"
    )
