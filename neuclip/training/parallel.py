"""How the encoders are laid out: over ranks, in memory, and as compiled blocks."""

from torch import nn

from neuclip.distributed.sharding import replicate, shard_out
from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.towers.model import Towers, blocks_of
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
