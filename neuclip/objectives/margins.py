"""Log-normalizers from margins: what both objectives share.

Legend: S side (0 image anchors, 1 text anchors), B local anchors, C columns that an anchor is
compared with (the global batch, or prototypes), G global batch, D embedding width,
tau temperature.

The margin of anchor i to column j is cos(i, j) - cos(i, own partner). All exponentials stay in the
log domain: at tau = 0.01 a margin of 1 is exp(100), beyond float32.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuclip.distributed.collectives import gather_with_gradient
from neuclip.distributed.world import World


def both_sides(
    image_features: Float[Tensor, "B D"],
    text_features: Float[Tensor, "B D"],
    *,
    dtype: torch.dtype,
    world: World,
) -> tuple[Float[Tensor, "2 B D"], Float[Tensor, "2 G D"]]:
    """Return the local anchors of both sides, and for each side the whole batch it is compared to.

    Side 0: images against the texts of all ranks; side 1: texts against the images of all ranks.
    Gradients flow back through the gathered features to the rank that owns them.
    """
    anchors_BSD = torch.stack([image_features, text_features], dim=1).to(dtype)
    contrasts_GSD = gather_with_gradient(anchors_BSD, world).flip(1)
    return anchors_BSD.transpose(0, 1), contrasts_GSD.transpose(0, 1)


def own_columns(anchors_SBD: Float[Tensor, "2 B D"], world: World) -> Bool[Tensor, "B G"]:
    """Mark, in the gathered batch, the column of each local anchor's own pair."""
    num_local = anchors_SBD.shape[1]
    columns_G = torch.arange(num_local * world.size, device=anchors_SBD.device)
    first = num_local * world.rank
    return columns_G[first : first + num_local, None] == columns_G


def log_weights(is_excluded_BC: Bool[Tensor, "B C"], dtype: torch.dtype) -> Float[Tensor, "B C"]:
    """Weigh the columns so that a weighted sum is the mean over those not excluded.

    Definition: -log(number of columns not excluded for b), and -inf where excluded.
    """
    is_kept_BC = ~is_excluded_BC
    num_kept_B1 = is_kept_BC.sum(dim=1, keepdim=True).clamp(min=1).to(dtype)
    return torch.where(is_kept_BC, -num_kept_B1.log(), -math.inf)


def scaled_margins(
    anchors_SBD: Float[Tensor, "S B D"],
    columns_SCD: Float[Tensor, "S C D"],
    own_cosine_B: Float[Tensor, " B"],
    temperature: Float[Tensor, ""],
) -> Float[Tensor, "S B C"]:
    """Return (cos(anchor, column) - cos(anchor, own partner)) / tau."""
    cosines_SBC = anchors_SBD @ columns_SCD.transpose(1, 2)
    return (cosines_SBC - own_cosine_B[:, None]) / temperature


def log_normalizers(
    margins_SBC: Float[Tensor, "S B C"], log_weights_BC: Float[Tensor, "B C"], eps: float
) -> Float[Tensor, "S B"]:
    """Return log(eps + sum over columns of weight * exp(margin)), nats.

    Source: section 1.1 of the NeuCLIP notation, g and a*; against loops in
    tests/objectives/test_margins.py.
    """
    sums_SB = torch.logsumexp(margins_SBC + log_weights_BC, dim=2)
    if eps == 0:
        return sums_SB
    return torch.logaddexp(sums_SB, torch.full_like(sums_SB, math.log(eps)))
