"""Towers as a folder in open_clip's own format: every checkpoint and the published model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuclip.foundation.errors import CheckpointError, ConfigError
from neuclip.tokens.tokenizer_files import TOKENIZER, read_tokenizer
from neuclip.towers.files import CONFIG_FILE, WEIGHTS_FILE
from neuclip.towers.folder_content import read_config, write_config, write_weights
from neuclip.towers.hugging_face_text import TEXT_CONFIG, read_text_config
from neuclip.towers.model import build_from_folder
from neuclip.towers.outside import WITH_TEXT_TOWER, WITH_TOKENIZER, outside_need
from neuclip.towers.towers import Towers
from neuclip.towers.with_encoder import with_encoder


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
    write_config(folder, architecture, towers.preprocess)
    for name, content in towers.files.items():
        (folder / name).write_bytes(content)
    write_weights(folder, architecture, weights)


def load_towers(
    folder: str | Path, device: str | torch.device = "cpu", *, encoder: str | Path | None = None
) -> Towers:
    """Read what save_towers wrote, in evaluation mode.

    Args:
        encoder: folder of the text encoder, for a model whose text tower reads features; without it such towers take
            images and features, and no texts.

    Raises:
        CheckpointError: if a file is missing or does not fit the architecture.
        ConfigError: if the architecture needs a network.
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    try:
        towers = build_from_folder(folder, architecture, load_weights=True, device=device)
    except ConfigError:
        raise
    except Exception as error:  # open_clip, safetensors and torch each have their own errors
        raise CheckpointError(f"the model in {folder} cannot be loaded: {error}") from error
    towers.model.eval()
    return towers if encoder is None else with_encoder(towers, str(encoder))


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
        architecture, _ = read_config(folder)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a configuration of open_clip: JSON with model_cfg and preprocess_cfg is expected"
        ) from error
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
