"""Where inputs and roots may lie, in one place, and what others may read of it."""

import re
from pathlib import PurePath
from typing import Annotated, Any, cast

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from neuclip.foundation.config import RESERVED, Section, marks_of
from neuclip.storage.uris import is_local

OBJECT_STORAGE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
LOCAL_PATH = "LOCAL_PATH"
"""Stands for a path of this machine in what is published."""

_ALLOWED = "a local path, or object storage such as s3://bucket/key"
_USER = re.compile(r"(?<=://)[^/\s'\"<>]+@")
_QUERY = re.compile(r"(\w://[^\s'\"<>?]+)\?[^\s'\"<>]*")


def refusal_of(uri: str) -> str | None:
    """Say why nothing is read from or written to a URI, None if it is a local path or an object's.

    A file of the web is not read: who names an input could ask hosts of this network, and a page has no version
    that a key could be made of.
    """
    if is_local(uri):
        return None
    protocol, _, rest = uri.partition("://")
    if "::" in uri:
        return f"it chains storage protocols; expected {_ALLOWED}"
    if protocol not in OBJECT_STORAGE:
        return f"storage protocol {protocol!r} is not read; expected {_ALLOWED}. Download it first"
    user = rest.partition("/")[0].rpartition("@")[0]
    if user and (":" in user or not protocol.startswith("abfs")):
        return (
            "it holds credentials; set them as environment variables, AWS_ACCESS_KEY_ID for example"
        )
    if "?" in uri:
        return "it has a query, as signed addresses have; set credentials as environment variables"
    return None


def _check(uri: str) -> str:
    if (why := refusal_of(uri)) is not None:
        raise ValueError(why)
    return uri


PLACE = object()
Place = Annotated[str, AfterValidator(_check), PLACE]
"""A field of a recipe that names a file or folder to be read or written."""


def without_credentials(text: str) -> str:
    """Leave out what a URL in a text may tell of keys: its user and its query."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def published(section: Section) -> dict[str, Any]:
    """Return a section, JSON-ready, as everybody may read it.

    Left out are reserved fields (programs, machines, addresses), keys in URLs, and paths that tell of this machine.
    """
    return _published(section, section.model_dump(mode="json"), is_place=False)


def _published(value: Any, dumped: Any, *, is_place: bool) -> Any:  # noqa: ANN401  # any value of a field
    if isinstance(value, Section):
        fields = type(value).model_fields
        return {
            name: _published(getattr(value, name), dumped[name], is_place=_is_place(info))
            for name, info in fields.items()
            if RESERVED not in marks_of(info)
        }
    if isinstance(dumped, dict):
        inner = cast("dict[str, Any]", dumped)
        return {
            without_credentials(name): _published(value[name], found, is_place=is_place)
            for name, found in inner.items()
        }
    if isinstance(dumped, list):
        items = zip(value, cast("list[Any]", dumped), strict=True)
        return [_published(*item, is_place=is_place) for item in items]
    if not isinstance(dumped, str):
        return dumped
    return LOCAL_PATH if is_place and _tells_of_a_machine(dumped) else without_credentials(dumped)


def _is_place(info: FieldInfo) -> bool:
    return PLACE in marks_of(info)


def _tells_of_a_machine(uri: str) -> bool:
    return is_local(uri) and (uri.startswith(("/", "~", "file:")) or ".." in PurePath(uri).parts)
