"""A tokenizer as a folder of files, as Hugging Face's libraries save a fast one: read and checked, not loaded."""

import importlib.util
import json
from collections.abc import Iterator
from typing import Any, cast

from neuclip.foundation.errors import ConfigError
from neuclip.storage.files import exists, read_bytes
from neuclip.storage.uris import join

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
"""All that is read of a tokenizer's folder: no program, no pickle, no sentencepiece model."""

_SAMPLING = ("dropout", "alpha", "nbest_size", "enable_sampling", "reduction_mask")
_REMOTE_CODE = ("auto_map", "trust_remote_code")


def read_tokenizer(folder_uri: str) -> dict[str, bytes]:
    """Return the files of a tokenizer: name -> content, byte for byte.

    Raises: ConfigError: if there is none, or it is drawn at random, or it wants code of its own.
    """
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        if not exists(join(folder_uri, name)):
            raise ConfigError(
                f"{folder_uri} has no {name}; expected the folder of a fast tokenizer, {TOKENIZER} and "
                f"{TOKENIZER_CONFIG}, as `save_pretrained` of Hugging Face's libraries writes it. Save the tokenizer "
                "so, and name that folder in the recipe"
            )
    uris = {name: join(folder_uri, name) for name in TOKENIZER_FILES}
    files = {name: read_bytes(uri) for name, uri in uris.items() if exists(uri)}
    parsed = {name: read_json(content, uris[name]) for name, content in files.items()}
    if not isinstance(parsed[TOKENIZER].get("model"), dict):
        raise ConfigError(
            f"{uris[TOKENIZER]} is not a tokenizer: expected a field `model` with the vocabulary, as the tokenizers "
            "library writes it"
        )
    if not isinstance(parsed[TOKENIZER_CONFIG].get("tokenizer_class"), str):
        raise ConfigError(
            f"{uris[TOKENIZER_CONFIG]} names no tokenizer_class; expected one of the transformers library, such as "
            "PreTrainedTokenizerFast. Save the tokenizer anew with its `save_pretrained`"
        )
    settings = [(TOKENIZER, parsed.pop(TOKENIZER)["model"] | {"vocab": None, "merges": None})]
    for name, content in [*settings, *parsed.items()]:
        _require_exact(uris[name], content)
    return files


def require_transformers(what: str) -> None:
    """Refuse what needs the transformers library where it is not installed.

    Raises: ConfigError: saying how to install it.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            f"{what} needs the transformers library; install it with: pip install 'neuclip[hf]'"
        )


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


def require_no_code(where: str, content: dict[str, Any]) -> None:
    """Refuse a configuration that names a program to be loaded with it.

    Raises: ConfigError: naming the field.
    """
    for name, value in _fields(content):
        if name in _REMOTE_CODE and value:
            raise ConfigError(
                f"{where} sets {name}, which loads a program that lies with the model; no such program is run. Take "
                "a class that the transformers library has itself"
            )


def _require_exact(where: str, content: dict[str, Any]) -> None:
    """Refuse settings under which the same text has other tokens the next time, and programs."""
    require_no_code(where, content)
    for name, value in _fields(content):
        if name in _SAMPLING and value:
            raise ConfigError(
                f"{where} sets {name} = {value!r}, which draws tokens at random at each call; a run could not be "
                f"resumed exactly. Remove {name}, or set it to null"
            )


def _fields(content: object) -> Iterator[tuple[str, Any]]:
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
