"""Towers as a folder in open_clip's own format: every checkpoint and the published model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from neuclip.foundation.errors import CheckpointError, ConfigError
from neuclip.towers.files import CONFIG_FILE, WEIGHTS_FILE
from neuclip.towers.hugging_face_text import TEXT_CONFIG, read_text_config
from neuclip.towers.model import build_from_folder
from neuclip.towers.outside import WITH_TEXT_TOWER, WITH_TOKENIZER, outside_need
from neuclip.towers.tokenizer_files import TOKENIZER, read_tokenizer
from neuclip.towers.towers import Towers


def save_towers(towers: Towers, folder: Path) -> None:
    """Write open_clip_config.json and open_clip_model.safetensors; equal weights give equal bytes.

    `open_clip.create_model_and_transforms("local-dir:FOLDER")` reads it, if the towers' `exports` say so. A tokenizer
    of their own lies beside it; without `text_cfg.hf_tokenizer_name` open_clip takes the one that it ships.
    """
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in towers.model.state_dict().items()
    }
    write_towers(towers, weights, folder)


def write_towers(towers: Towers, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write towers with other weights than their present ones, as save_towers does.

    Args:
        weights: copies on the CPU, contiguous, by the model's own names; a `logit_bias` may come to them, which
            open_clip gives to a model whose configuration has `init_logit_bias`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    architecture = towers.architecture
    if "logit_bias" in weights:
        architecture = {**architecture, "init_logit_bias": weights["logit_bias"].item()}
    config = {"model_cfg": architecture, "preprocess_cfg": towers.preprocess}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name, content in towers.files.items():
        (folder / name).write_bytes(content)
    save_file(dict(weights), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_towers(folder: Path, device: str | torch.device = "cpu") -> Towers:
    """Read what save_towers wrote, in evaluation mode.

    Raises:
        CheckpointError: if a file is missing or does not fit the architecture.
        ConfigError: if the architecture needs a network.
    """
    architecture = read_architecture(folder)
    try:
        towers = build_from_folder(folder, architecture, load_weights=True, device=device)
    except ConfigError:
        raise
    except Exception as error:  # open_clip, safetensors and torch each have their own errors
        raise CheckpointError(f"the model in {folder} cannot be loaded: {error}") from error
    towers.model.eval()
    return towers


def read_architecture(folder: Path) -> dict[str, Any]:
    """Return the `model_cfg` of a model folder.

    Raises:
        CheckpointError: if the folder is not whole, or its configuration cannot be read.
        ConfigError: if the architecture needs a network, or a file in the folder must not be used.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}, as a select stage "
                "leaves it in `model`"
            )
    path = folder / CONFIG_FILE
    try:
        architecture = json.loads(path.read_bytes())["model_cfg"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a configuration of open_clip: JSON with model_cfg and preprocess_cfg is expected"
        ) from error
    if not isinstance(architecture, dict):
        raise CheckpointError(f"{path} has a model_cfg without fields")
    has_tokenizer, has_text = ((folder / name).is_file() for name in (TOKENIZER, TEXT_CONFIG))
    answered = (WITH_TOKENIZER if has_tokenizer else frozenset[str]()) | (
        WITH_TEXT_TOWER if has_text else frozenset[str]()
    )
    if (need := outside_need(architecture, answered=answered)) is not None:
        raise ConfigError(f"the architecture in {path} has {need}")
    text_cfg = architecture.get("text_cfg", {})
    if text_cfg.get("hf_tokenizer_name"):
        read_tokenizer(str(folder))
    if "hf_model_name" in text_cfg:
        read_text_config(str(folder))
    return architecture
