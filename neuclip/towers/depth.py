"""How deep in its tower a parameter lies: below the blocks, in one of them, or above them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from neuclip.foundation.errors import ConfigError

Tower = Literal["image", "text"]
TOWERS: tuple[Tower, Tower] = ("image", "text")

_IMAGE = "visual."
_LOGITS = ("logit_scale", "logit_bias")
_NO_BLOCKS = ("stem", "patch_embed", "head", "proj", "attn_pool", "pooler")
"""Lists of layers of these names stand below or above the blocks: ConvNeXt's stem, open_clip's projections."""
_ABOVE = ("proj", "text_projection")
"""Parameters that a tower holds itself, beside its parts, and uses after the blocks."""


@dataclass(frozen=True)
class Depths:
    """The layers of one tower.

    Args:
        layer_of: parameter's name -> 0 below the blocks (embeddings), 1 .. num_blocks in a block, one more above
            (last norm, projection).
        modules: names of the tower's modules in order -> layer, of those without parameters too.
    """

    layer_of: dict[str, int]
    modules: dict[str, int]
    num_blocks: int


def tower_of(name: str) -> Tower | None:
    """Return the tower of a parameter or module by its name; None for temperature and bias, and the whole model."""
    if not name or name in _LOGITS:
        return None
    return "image" if f"{name}.".startswith(_IMAGE) else "text"


def depths_of(model: nn.Module, tower: Tower) -> Depths:
    """Number the layers of a tower from its input to its output.

    Blocks are the members of its lists of layers. What is registered before them lies below, what comes later above;
    embeddings lie below wherever they are registered.

    Raises: ConfigError: if the tower has no blocks.
    """
    blocks = [name for name in _block_names(model) if tower_of(name) == tower]
    if not blocks:
        raise ConfigError(
            f"the {tower} tower of train.model is not a list of blocks, which train.layer_decay and all_but_last of "
            "train.freeze count; set layer_decay to 1, and freeze all of the tower or nothing"
        )
    number_of = {name: number for number, name in enumerate(blocks, start=1)}
    modules: dict[str, int] = {}
    layer = 0
    for name, _ in model.named_modules():
        if tower_of(name) != tower:
            continue
        own = next(
            (n for block, n in number_of.items() if f"{name}.".startswith(f"{block}.")), None
        )
        if own is not None:
            modules[name] = layer = own
        elif "embed" in name or layer == 0:
            modules[name] = 0
        else:
            modules[name] = len(blocks) + 1
    layer_of: dict[str, int] = {}
    for name, _ in model.named_parameters():
        if tower_of(name) == tower:
            holder, _, last = name.rpartition(".")
            is_above = last in _ABOVE and modules.get(holder, 0) == 0
            layer_of[name] = len(blocks) + 1 if is_above else modules.get(holder, 0)
    return Depths(layer_of, modules, len(blocks))


def _block_names(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the members with weights of the outermost lists of layers, in order."""
    for name, part in module.named_children():
        if name in _NO_BLOCKS:
            continue
        place = f"{prefix}{name}"
        if isinstance(part, (nn.ModuleList, nn.Sequential)):
            for number, block in part.named_children():
                if any(True for _ in block.parameters()):
                    yield f"{place}.{number}"
        else:
            yield from _block_names(part, f"{place}.")
