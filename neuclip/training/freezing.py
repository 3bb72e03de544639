"""Weights that a run leaves as they are: without gradient, and their parts in evaluation mode."""

from torch import nn

from neuclip.foundation.errors import ConfigError
from neuclip.towers.depth import TOWERS, Tower, depths_of, tower_of
from neuclip.training.freezing_config import FreezeConfig, LastBlocks


def freeze(model: nn.Module, config: FreezeConfig | None) -> list[nn.Module]:
    """Take the gradient from frozen weights; return the parts that stay in evaluation mode.

    Without a gradient they are in no optimiser, average, message between ranks or shard. In evaluation mode the running
    statistics of batch norms stay, and nothing is dropped out.

    Raises: ConfigError: if a tower has fewer blocks than are to be trained.
    """
    still: list[str] = []
    for tower in TOWERS if config else ():
        what = getattr(config, tower)
        if what is not None:
            still += _freeze_tower(model, tower, what)
    outermost = [name for name in still if name.rpartition(".")[0] not in still]
    return [model.get_submodule(name) for name in outermost]


def _freeze_tower(model: nn.Module, tower: Tower, what: str | LastBlocks) -> list[str]:
    """Freeze one tower; return the names of its parts that hold nothing which learns."""
    if isinstance(what, LastBlocks):
        depths = depths_of(model, tower)
        if what.all_but_last > depths.num_blocks:
            raise ConfigError(
                f"train.freeze.{tower}.all_but_last is {what.all_but_last}, and the {tower} tower has "
                f"{depths.num_blocks} blocks; give a number up to {depths.num_blocks}, or leave {tower} out"
            )
        last = depths.num_blocks - what.all_but_last
        layer_of, layer_of_module = depths.layer_of, depths.modules
    else:
        last, layer_of, layer_of_module = 0, dict[str, int](), dict[str, int]()
    for name, parameter in model.named_parameters():
        if tower_of(name) == tower and layer_of.get(name, 0) <= last:
            parameter.requires_grad_(False)  # noqa: FBT003  # torch's own signature
    return [
        name
        for name, part in model.named_modules()
        if tower_of(name) == tower
        and layer_of_module.get(name, 0) <= last
        and not any(parameter.requires_grad for parameter in part.parameters())
    ]
