"""How the encoders are laid out: over ranks, in memory, as compiled blocks, and in which number formats."""

import torch
from torch import nn

from neuclip.distributed.sharding import replicate, shard_out
from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.towers.model import blocks_of
from neuclip.towers.towers import Towers
from neuclip.training.config import TrainConfig


def lay_out(encoders: nn.Module, towers: Towers, config: TrainConfig, world: World) -> nn.Module:
    """Prepare the towers in place as the recipe says; return what takes gradients over all ranks.

    Raises: ConfigError: if this architecture cannot be laid out so.
    """
    if config.grad_checkpointing:
        _checkpoint_gradients(towers.model)
    if config.compile:
        for block in blocks_of(towers.model):
            block.compile()
    if config.parallel == "ddp":
        return replicate(encoders, world)
    if _has_batch_statistics(towers.model):
        raise ConfigError(
            "train.parallel: fsdp does not keep the running statistics of batch norms equal on all ranks; "
            "use ddp, or an architecture without batch norms"
        )
    shard_out(towers.model, blocks_of(towers.model), world, calls=("encode_image", "encode_text"))
    return encoders


def _checkpoint_gradients(model: nn.Module) -> None:
    model.set_grad_checkpointing()  # pyright: ignore[reportCallIssue]
    if _has_batch_statistics(model):
        # open_clip's ResNet takes the call and does nothing; in others a second pass would count a batch twice.
        raise ConfigError(
            "train.grad_checkpointing is for transformers, and this architecture has batch norms; set it to "
            "false, and train.micro_batch where memory is short"
        )


def _has_batch_statistics(model: nn.Module) -> bool:
    return any(name.endswith("running_mean") for name, _ in model.named_buffers())


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
