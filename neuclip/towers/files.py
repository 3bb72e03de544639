"""The files of a model folder, looked at without loading them or torch."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from neuclip.foundation.errors import DataError
from neuclip.stages.keys import digest
from neuclip.storage.files import exists, list_files, sha256_of, version_tag
from neuclip.storage.uris import join
from neuclip.text_encoder.record import ENCODER
from neuclip.tokens.tokenizer_files import TOKENIZER_FILES
from neuclip.towers.hugging_face_text import TEXT_CONFIG

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
ADAPTER_FILE = "text_adapter.safetensors"
"""Of a text tower that none but neuclip reads; the others have all their weights in WEIGHTS_FILE."""
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, TEXT_CONFIG, *TOKENIZER_FILES, ADAPTER_FILE, ENCODER)
"""All files that a model folder may hold; the first two are always there."""

NEUCLIP = "neuclip"
"""In CONFIG_FILE: what open_clip passes over, the `text_cfg` of a text tower that it has not."""
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_MOST_SHOWN = 5


def model_files(names: Iterable[str]) -> list[str]:
    """Return which of a folder's files make up its model."""
    found = set(names)
    return [name for name in MODEL_FILES if name in found]


def parse_config(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `model_cfg`, with the text tower that is meant, and `preprocess_cfg`.

    Raises: ValueError, LookupError, TypeError, RecursionError: if it is no such file; whoever reads it says so.
    """
    read = json.loads(content)
    model_cfg, preprocess_cfg = dict(read["model_cfg"]), dict(read["preprocess_cfg"])
    if NEUCLIP in read:
        model_cfg["text_cfg"] = dict(read[NEUCLIP]["text_cfg"])
    return model_cfg, preprocess_cfg


def weights_sha256(folder: Path) -> str:
    """Return the hash that a model is known by: of the file with its weights, or of both if its text tower has one."""
    names = (WEIGHTS_FILE, ADAPTER_FILE)
    return joined_sha256(sha256_of(str(folder / one)) for one in names if (folder / one).is_file())


def joined_sha256(hashes: Iterable[str]) -> str:
    """Return the hash of a model whose files with weights have these, in the order of MODEL_FILES."""
    first, *others = hashes
    return hashlib.sha256(" ".join([first, *others]).encode()).hexdigest() if others else first


def fingerprint_model(folder_uri: str) -> str:
    """Return the fingerprint of a model: of the content of its configuration and weights, not of their place.

    Raises: DataError: if the folder is no model, saying what it is.
    """
    require_model_files(folder_uri)
    names = [CONFIG_FILE, WEIGHTS_FILE]
    names += [ADAPTER_FILE] * exists(join(folder_uri, ADAPTER_FILE))
    return digest([[name, version_tag(join(folder_uri, name))] for name in names])


def require_model_files(folder_uri: str) -> None:
    """Refuse what is no folder with both files.

    Raises: DataError: saying what is there instead, and what to do about a pickle.
    """
    if folder_uri.endswith(_PICKLES):
        raise _pickle(folder_uri)
    names = [name for name in list_files(folder_uri) if "/" not in name]
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in names]
    if not missing:
        return
    pickles = [name for name in names if PurePath(name).suffix in _PICKLES]
    if WEIGHTS_FILE in missing and pickles:
        raise _pickle(join(folder_uri, pickles[0]))
    there = ", ".join(names[:_MOST_SHOWN]) or "no file"
    raise DataError(
        f"{folder_uri} is no model folder: it has no {' and no '.join(missing)}, found {there}; expected both, as a "
        "publish stage leaves them in `model` and as open_clip writes them"
    )


def _pickle(uri: str) -> DataError:
    return DataError(
        f"{uri} is a pickle, which can run programs when it is read, so it is never opened; save its state_dict with "
        f"safetensors.torch.save_file as {WEIGHTS_FILE} beside {CONFIG_FILE}, on a machine where you trust it"
    )
