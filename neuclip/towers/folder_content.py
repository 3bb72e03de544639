"""What stands in a model folder: open_clip's configuration and weights, and beside them what none but neuclip reads.

A text tower that open_clip has not lies in files of its own: its section in open_clip_config.json under `neuclip`,
which open_clip passes over, its weights in text_adapter.safetensors. In its place open_clip finds a text tower of one
token, whose weights are zeros: the image tower loads, and nobody takes what stands there for features of texts.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.model import (
    CLIPTextCfg,
    _build_text_tower,  # pyright: ignore[reportPrivateUsage]  # no other way to its names
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuclip.towers.files import (
    ADAPTER_FILE,
    CONFIG_FILE,
    NEUCLIP,
    WEIGHTS_FILE,
    parse_config,
)
from neuclip.towers.model_cfg import text_kind

PLACEHOLDER = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
"""Stands for a text tower that open_clip does not know."""
_TEXT = "text."


def read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `model_cfg`, with the text tower that is meant, and `preprocess_cfg`.

    Raises: ValueError, LookupError, TypeError, RecursionError: if it is no such file; whoever reads it says so.
    """
    return parse_config((folder / CONFIG_FILE).read_bytes())


def write_config(
    folder: Path, model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any]
) -> None:
    """Write open_clip_config.json."""
    config: dict[str, Any] = {"model_cfg": dict(model_cfg), "preprocess_cfg": dict(preprocess_cfg)}
    if text_kind(config["model_cfg"]) is not None:
        config["model_cfg"]["text_cfg"] = PLACEHOLDER
        config[NEUCLIP] = {"text_cfg": model_cfg["text_cfg"]}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all weights by the names that the model has them under."""
    weights = load_file(folder / WEIGHTS_FILE)
    if not (folder / ADAPTER_FILE).is_file():
        return weights
    placeholder = _placeholder(1, is_custom=False)
    weights = {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(_TEXT) and name not in placeholder
    }
    adapter = load_file(folder / ADAPTER_FILE)
    return weights | {f"{_TEXT}{name}": tensor for name, tensor in adapter.items()}


def write_weights(
    folder: Path, model_cfg: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write weights, those of a text tower that open_clip has not into a file of its own."""
    weights = dict(weights)
    if text_kind(dict(model_cfg)) is not None:
        adapter = {
            name.removeprefix(_TEXT): weights.pop(name)
            for name in list(weights)
            if name.startswith(_TEXT)
        }
        save_file(adapter, folder / ADAPTER_FILE, metadata={"format": "pt"})
        weights |= _placeholder(
            int(model_cfg["embed_dim"]), is_custom=bool(model_cfg.get("custom_text"))
        )
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _placeholder(embed_dim: int, *, is_custom: bool) -> dict[str, Tensor]:
    """Return the zeros that open_clip finds as text tower, under the names that it looks for."""
    with torch.random.fork_rng(devices=[]):
        tower = _build_text_tower(embed_dim, CLIPTextCfg(**cast("dict[str, Any]", PLACEHOLDER)))
    prefix = _TEXT if is_custom else ""
    return {f"{prefix}{name}": torch.zeros_like(x) for name, x in tower.state_dict().items()}
