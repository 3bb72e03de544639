"""URIs: plain paths and `s3://bucket/key`, joined and split without touching storage."""

from pathlib import Path


def is_local(uri: str) -> bool:
    """Tell whether a URI names a file of this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_part(uri: str) -> Path:
    """Return the path that a local URI names."""
    return Path(uri.removeprefix("file://"))


def absolute(uri: str) -> str:
    """Return a URI that means the same in every working folder."""
    return str(local_part(uri).absolute()) if is_local(uri) else uri


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def name_of(uri: str) -> str:
    """Return the last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def parent_of(uri: str) -> str:
    """Return a URI without its last part."""
    return uri.rstrip("/").rsplit("/", 1)[0]
