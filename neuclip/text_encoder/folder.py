"""The local folder of an encoder: which files are read, and what refuses it before anything is loaded."""

from typing import Any

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.untrusted_json import read_json, require_no_code, require_no_kernels
from neuclip.storage.files import list_files, read_bytes
from neuclip.storage.uris import join
from neuclip.text_encoder.config import EncoderSettings
from neuclip.tokens.tokenizer_files import TOKENIZER_CONFIG, TOKENIZER_FILES, read_tokenizer

MODEL_CONFIG = "config.json"
WEIGHTS_SUFFIXES = (".safetensors", ".safetensors.index.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")


def encoder_files(folder_uri: str) -> list[str]:
    """Return the names of the files that make up an encoder, in order; all else in the folder is left alone.

    Raises: ConfigError: if one is missing or must not be used.
    """
    there = sorted(name for name in list_files(folder_uri) if "/" not in name)
    if not there:
        raise ConfigError(
            f"text_encoder.folder {folder_uri} is no folder with files; expected a local folder or URI of a language "
            "model as `save_pretrained` writes it. A name on a hub is not looked up: fetch the model first, and name "
            "the folder"
        )
    if MODEL_CONFIG not in there:
        raise ConfigError(
            f"{folder_uri} has no {MODEL_CONFIG}, found {', '.join(there[:5])}; expected the folder of a language "
            "model as `save_pretrained` of the transformers library writes it"
        )
    read_tokenizer(folder_uri)
    weights = [name for name in there if name.endswith(WEIGHTS_SUFFIXES)]
    if not any(name.endswith(".safetensors") for name in weights):
        pickles = [name for name in there if name.endswith(_PICKLES)]
        why = f"; {pickles[0]} is a pickle, which is never opened" if pickles else ""
        raise ConfigError(
            f"{folder_uri} has no *.safetensors{why}. Save the model with "
            "`save_pretrained(folder, safe_serialization=True)`"
        )
    return [MODEL_CONFIG, *(name for name in TOKENIZER_FILES if name in there), *weights]


def read_model_config(folder_uri: str) -> dict[str, Any]:
    """Return the fields of an encoder's config.json.

    Raises: ConfigError: if it names a program, kernels or a model that is none of texts.
    """
    where = join(folder_uri, MODEL_CONFIG)
    config = read_json(read_bytes(where), where)
    require_no_code(where, config)
    require_no_kernels(where, config)
    if width_of(config) is None:
        raise ConfigError(
            f"{where} (model_type {config.get('model_type')!r}) names no {', no '.join(_WIDTHS)}: it is no language "
            "model of one width; take the folder of the text model itself"
        )
    return config


def width_of(config: dict[str, Any]) -> int | None:
    """Return the width of the states that leave a model of this configuration; None if it says none."""
    return next((config[name] for name in _WIDTHS if isinstance(config.get(name), int)), None)


def most_positions(config: dict[str, Any]) -> int | None:
    """Return how many tokens a model of this configuration can read; None if any number."""
    return next((config[name] for name in _POSITIONS if isinstance(config.get(name), int)), None)


def require_settings(folder_uri: str, settings: EncoderSettings) -> int:
    """Hold settings against an encoder's small files; return the width of its features.

    Raises: ConfigError: if the folder cannot be an encoder, or reads fewer tokens.
    """
    encoder_files(folder_uri)
    config = read_model_config(folder_uri)
    require_padding(folder_uri)
    most = most_positions(config)
    if most is not None and settings.max_tokens > most:
        raise ConfigError(
            f"text_encoder.max_tokens {settings.max_tokens} is beyond the {most} positions of the model in "
            f"{folder_uri}; give {most} or less"
        )
    width = width_of(config)
    assert width is not None, "read_model_config has looked"
    return width


def require_width(found: int, expected: int, whose: str) -> None:
    """Refuse an encoder whose features the text tower cannot read.

    Raises: ConfigError: saying what is of which width.
    """
    if found != expected:
        raise ConfigError(
            f"train.model.text.width is {expected}, and the encoder ({whose}) makes features of width {found}; set "
            f"it to {found}. The width of the embeddings is embed_dim of the architecture: the adapter leads from one "
            "to the other"
        )


def require_padding(folder_uri: str) -> None:
    """Refuse a tokenizer that has no token to fill up shorter texts with.

    Raises: ConfigError: saying where to name one.
    """
    where = join(folder_uri, TOKENIZER_CONFIG)
    if not read_json(read_bytes(where), where).get("pad_token"):
        raise ConfigError(
            f"{where} has no pad_token, with which shorter texts are filled up beside longer ones; set it to a token "
            'that no text has, such as "pad_token": "<|finetune_right_pad_id|>" for Llama 3, or to the end token'
        )
