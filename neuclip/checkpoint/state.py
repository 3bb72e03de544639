"""Nested training state as one safetensors file: tensors by dotted name, nothing pickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuclip.foundation.errors import CheckpointError

_SEPARATOR = "/"


def copy_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return copies on the CPU of nested mappings of tensors; the names joined by "/" become the keys.

    Raises: CheckpointError: for a value that is no tensor.
    """
    return dict(_flat(state))


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write what copy_state returned."""
    save_file(dict(state), path, metadata={"format": "pt"})


def load_state(path: Path) -> dict[str, Any]:
    """Read what save_state wrote.

    Raises: CheckpointError: if the file is not whole.
    """
    try:
        flat = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}; delete its checkpoint folder and run again"
        ) from error
    nested: dict[str, Any] = {}
    for name, tensor in flat.items():
        *folders, last = name.split(_SEPARATOR)
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = tensor
    return nested


def _flat(state: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Tensor]]:
    pairs: list[tuple[str, Tensor]] = []
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs.extend(_flat(value, name + _SEPARATOR))
        elif isinstance(value, torch.Tensor):
            pairs.append((name, value.detach().cpu().contiguous().clone()))
        else:
            raise CheckpointError(
                f"state {name!r} is a {type(value).__name__}; a checkpoint holds tensors only"
            )
    return pairs
