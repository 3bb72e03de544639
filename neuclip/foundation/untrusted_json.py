"""JSON files of a model folder that somebody else wrote: read, and refused where they name a program to be run."""

import importlib.util
import json
from collections.abc import Iterator
from typing import Any, cast

from neuclip.foundation.errors import ConfigError

_REMOTE_CODE = ("auto_map", "trust_remote_code")
_KERNELS = ("quantization", "attn_implementation")


def read_json(content: bytes, where: str) -> dict[str, Any]:
    """Return the fields of a JSON file.

    Args:
        where: its place, for the error.
    Raises: ConfigError: if it is not one.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{where} is not JSON ({error}); save the folder anew, or take another one"
        ) from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"{where} holds no fields; expected a JSON object")
    return cast("dict[str, Any]", parsed)


def json_fields(content: object) -> Iterator[tuple[str, Any]]:
    """List the fields of a JSON value at any depth: name in small letters, value."""
    waiting: list[object] = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            yield from ((name.lower(), inner) for name, inner in fields.items())
            waiting += fields.values()
        elif isinstance(value, list):
            waiting += cast("list[object]", value)


def require_no_code(where: str, content: dict[str, Any]) -> None:
    """Refuse a configuration that names a program to be loaded with it.

    Raises: ConfigError: naming the field.
    """
    for name, value in json_fields(content):
        if name in _REMOTE_CODE and value:
            raise ConfigError(
                f"{where} sets {name}, which loads a program that lies with the model; no such program is run. Take "
                "a class that the transformers library has itself"
            )


def require_no_kernels(where: str, content: dict[str, Any]) -> None:
    """Refuse a configuration that asks for packed weights or for attention of its own.

    Raises: ConfigError: naming the field.
    """
    for name, value in json_fields(content):
        if value and any(kernel in name for kernel in _KERNELS):
            raise ConfigError(
                f"{where} sets {name}, which may load programs of a hub; take the field out, and weights that are not "
                "quantized"
            )


def require_transformers(what: str, *, extra: str) -> None:
    """Refuse what needs the transformers library where it is not installed.

    Raises: ConfigError: saying how to install it.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            f"{what} needs the transformers library; install it with: pip install 'neuclip[{extra}]'"
        )
