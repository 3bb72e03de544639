"""Storage protocols by name: which package opens each, for those that are not installed."""

from fsspec.registry import known_implementations

from neuclip.foundation.errors import StorageError, nearest

_INSTALLED = ("s3", "file", "http", "https", "memory")
"""What the lock brings."""
_PACKAGES = {
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
    "github": "requests",
    "gdrive": "gdrive-fsspec",
    "hdfs": "a Hadoop client (libhdfs, and JAVA_HOME)",
}
"""Where the module's name is not the package's."""


def cannot_open(uri: str, protocol: str) -> StorageError:
    """Return the error for a protocol that does not open: what to install, or which one may be meant."""
    known = known_implementations.get(protocol)
    if known is None:
        return StorageError(
            f"cannot open {uri}: storage protocol {protocol!r} is not known; a path, {', '.join(_INSTALLED)} can be "
            f"used.{nearest(protocol.lower(), [*_INSTALLED, *known_implementations])}"
        )
    module = known["class"].split(".")[0]
    package = _PACKAGES.get(protocol, module.replace("_", "-"))
    if protocol == "hdfs":
        return StorageError(
            f"cannot open {uri}: hdfs needs {package}; install it, or use another root"
        )
    if package == "fsspec" or protocol in _INSTALLED:
        return StorageError(
            f"cannot open {uri}: {protocol} needs more than this address; expected {protocol}://HOST/PATH or another "
            "protocol"
        )
    return StorageError(
        f"cannot open {uri}: {protocol} needs the package {package}: `pip install {package}`, or use another root"
    )
