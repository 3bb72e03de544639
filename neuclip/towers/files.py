"""The files of a model folder, looked at without loading them or torch."""

from collections.abc import Iterable
from pathlib import PurePath

from neuclip.foundation.errors import DataError
from neuclip.stages.keys import digest
from neuclip.storage.files import list_files, version_tag
from neuclip.storage.uris import join
from neuclip.towers.hugging_face_text import TEXT_CONFIG
from neuclip.towers.tokenizer_files import TOKENIZER_FILES

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, TEXT_CONFIG, *TOKENIZER_FILES)
"""All files that a model folder may hold; the first two are always there."""

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_MOST_SHOWN = 5


def model_files(names: Iterable[str]) -> list[str]:
    """Return which of a folder's files make up its model."""
    found = set(names)
    return [name for name in MODEL_FILES if name in found]


def fingerprint_model(folder_uri: str) -> str:
    """Return the fingerprint of a model: of the content of its configuration and weights, not of their place.

    Raises: DataError: if the folder is no model, saying what it is.
    """
    require_model_files(folder_uri)
    names = (CONFIG_FILE, WEIGHTS_FILE)
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
