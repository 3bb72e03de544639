"""A tokenizer as a folder of files, as Hugging Face's libraries save a fast one: read and checked, not loaded."""

from typing import Any

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.untrusted_json import json_fields, read_json, require_no_code
from neuclip.storage.files import exists, read_bytes
from neuclip.storage.uris import join

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
"""All that is read of a tokenizer's folder: no program, no pickle, no sentencepiece model."""

_SAMPLING = ("dropout", "alpha", "nbest_size", "enable_sampling", "reduction_mask")


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


def _require_exact(where: str, content: dict[str, Any]) -> None:
    """Refuse settings under which the same text has other tokens the next time, and programs."""
    require_no_code(where, content)
    for name, value in json_fields(content):
        if name in _SAMPLING and value:
            raise ConfigError(
                f"{where} sets {name} = {value!r}, which draws tokens at random at each call; a run could not be "
                f"resumed exactly. Remove {name}, or set it to null"
            )
