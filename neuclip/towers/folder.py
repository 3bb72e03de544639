"""Towers as a folder in open_clip's own format: every checkpoint and the published model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from neuclip.foundation.errors import CheckpointError, ConfigError
from neuclip.towers.model import CONFIG_FILE, WEIGHTS_FILE, Towers, build_from_folder


def save_towers(towers: Towers, folder: Path) -> None:
    """Write open_clip_config.json and open_clip_model.safetensors; equal weights give equal bytes.

    `open_clip.create_model_and_transforms("local-dir:FOLDER")` reads it. No tokenizer file is needed:
    without `text_cfg.hf_tokenizer_name` open_clip takes the one that it ships.
    """
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in towers.model.state_dict().items()
    }
    write_towers(towers, weights, folder)


def write_towers(towers: Towers, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write towers with other weights than their present ones, as save_towers does.

    Args:
        weights: copies on the CPU, contiguous, by the model's own names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": towers.architecture, "preprocess_cfg": towers.preprocess}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(dict(weights), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_towers(folder: Path, device: str | torch.device = "cpu") -> Towers:
    """Read what save_towers wrote, in evaluation mode.

    Raises: CheckpointError: if a file is missing or does not fit the architecture.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        towers = build_from_folder(folder, config["model_cfg"], load_weights=True, device=device)
    except ConfigError:
        raise
    except Exception as error:  # open_clip, safetensors and torch each have their own errors
        raise CheckpointError(f"the model in {folder} cannot be loaded: {error}") from error
    towers.model.eval()
    return towers
