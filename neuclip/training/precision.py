"""The number formats that the towers compute in."""

import torch

from neuclip.training.config import TrainConfig


def is_in_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Tell whether the encoders run under bf16 autocast."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def set_float32_products(config: TrainConfig) -> None:
    """Let float32 products and convolutions on a GPU round their inputs to TF32, or keep them from it.

    A switch of the whole process, so the objective's products obey it too.
    """
    is_rounded = config.precision == "tf32"
    torch.set_float32_matmul_precision("high" if is_rounded else "highest")
    torch.backends.cudnn.allow_tf32 = is_rounded
