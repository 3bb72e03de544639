"""Averages of the weights of several checkpoints of one run: model soups."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neuclip.towers.encode import encode_images, scoring_device
from neuclip.towers.files import ADAPTER_FILE, WEIGHTS_FILE, model_files
from neuclip.towers.folder import load_towers, save_towers

_WEIGHTS = (WEIGHTS_FILE, ADAPTER_FILE)
_MEAN = "running_mean"


def cook(folders: Sequence[Path], out: Path, *, images: Sequence[bytes], batch_size: int) -> None:
    """Write the model folder whose weights are the mean of those of others; all are checkpoints of one run.

    Definition: each tensor is the mean in float64, rounded to its own type; whole numbers are the first's.
    Running statistics of batch norms are not averaged but measured anew on images, as those of no checkpoint fit.
    One model's weights are in memory, and one tensor of another at a time.

    Source: model soups, arXiv 2203.05482; tests/selection/test_soup.py.
    """
    out.mkdir(parents=True)
    for name in model_files(path.name for path in folders[0].iterdir()):
        if name not in _WEIGHTS:
            shutil.copyfile(folders[0] / name, out / name)
    has_statistics = False
    for name in _WEIGHTS:
        if (folders[0] / name).is_file():
            tensors = _mean_of([folder / name for folder in folders])
            has_statistics |= any(key.endswith(_MEAN) for key in tensors)
            save_file(tensors, out / name, metadata={"format": "pt"})
    if has_statistics and len(set(folders)) > 1:
        _measure_statistics(out, images, batch_size=batch_size)


def _mean_of(files: Sequence[Path]) -> dict[str, Tensor]:
    with ExitStack() as stack:
        opened: list[Any] = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        return {
            key: _mean(one.get_tensor(key) for one in opened) for key in sorted(opened[0].keys())
        }


def _mean(tensors: Iterator[Tensor]) -> Tensor:
    """Return the mean of tensors, of which one is in memory at a time."""
    first = next(tensors)
    if not first.is_floating_point():
        return first
    total, count = first.double(), 1
    for tensor in tensors:
        total += tensor
        count += 1
    return total.div_(count).to(first.dtype)


def _measure_statistics(folder: Path, images: Sequence[bytes], *, batch_size: int) -> None:
    towers = load_towers(folder, scoring_device())
    for module in towers.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
            module.train()
    encode_images(towers, images, batch_size=batch_size)
    save_towers(towers, folder)
