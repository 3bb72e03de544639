"""Tables of positions for another image size or context length.

Legend: P prefix rows (class token), N rows of the grid of patches, L rows of the text, W width.
"""

import math
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, cat, nn
from torch.nn.functional import interpolate

IMAGE_TABLES = (
    "visual.positional_embedding",
    "visual.attnpool.positional_embedding",
    "visual.trunk.pos_embed",
)
FIXED_TABLE = IMAGE_TABLES[0]
"""The one that is a fixed sin-cos table where `pos_embed_type` says so."""
TEXT_TABLES = ("positional_embedding", "text.positional_embedding")


def resized(name: str, table: Tensor, model: nn.Module) -> Tensor | None:
    """Return a table in the length that a model has for it; None if only a table of other width or form would fit.

    Args:
        name: of the parameter, one of IMAGE_TABLES and TEXT_TABLES.
        table: [P + N, W] or [1, P + N, W] of images, [L, W] of texts.
    """
    own = cast("Tensor", model.get_parameter(name))
    if table.shape == own.shape:
        return table
    if (
        table.ndim != own.ndim
        or table.shape[-1] != own.shape[-1]
        or table.shape[:-2] != own.shape[:-2]
    ):
        return None
    rows = table.reshape(-1, table.shape[-1])
    if name in TEXT_TABLES:
        return resized_text(rows, own.shape[-2])
    prefix = _prefix_rows(name, own, model)
    side, new_side = math.isqrt(len(rows) - prefix), math.isqrt(own.shape[-2] - prefix)
    if (side**2, new_side**2) != (len(rows) - prefix, own.shape[-2] - prefix):
        return None
    return resized_grid(rows, new_side, prefix=prefix).reshape(own.shape)


def resized_grid(
    table: Float[Tensor, "P+N W"], side: int, *, prefix: int
) -> Float[Tensor, "P+M W"]:
    """Interpolate a square grid to [side, side]; the first `prefix` rows are kept.

    Definition: bicubic, antialiased where the grid shrinks, pixels as areas. Source: open_clip's resize_pos_embed.
    """
    own_side = math.isqrt(len(table) - prefix)
    if own_side == side:
        return table
    grid = table[prefix:].T.reshape(1, -1, own_side, own_side)
    grid = interpolate(grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return cat([table[:prefix], grid[0].flatten(1).T])


def resized_text(table: Float[Tensor, "L W"], length: int) -> Float[Tensor, "M W"]:
    """Interpolate rows linearly; a table that grows keeps its first and its last row.

    Source: open_clip's resize_text_pos_embed.
    """
    if len(table) == length:
        return table
    rows = interpolate(table.T[None], size=length, mode="linear", align_corners=False)
    return rows[0].T.contiguous()


def learn_fixed(model: nn.Module) -> None:
    """Let the image tower's fixed positions be trained as other weights are."""
    model.get_parameter(FIXED_TABLE).requires_grad_(True)  # noqa: FBT003  # torch's own signature


def _prefix_rows(name: str, own: Tensor, model: nn.Module) -> int:
    """Return how many rows stand before the grid: those of timm's tables vary, open_clip's have the class token."""
    if name == "visual.trunk.pos_embed":
        trunk: Any = model.get_submodule("visual.trunk")
        return own.shape[-2] - int(trunk.patch_embed.num_patches)
    return 1
