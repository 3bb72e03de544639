"""Log-normalizers from margins: what the objectives share.

Legend: S side (0 image anchors, 1 text anchors), B anchors, C columns that an anchor is
compared with (the global batch, prototypes, a queue), D embedding width, tau temperature.

The margin of anchor i to column j is cos(i, j) - cos(i, own partner). All exponentials stay in the
log domain: at tau = 0.01 a margin of 1 is exp(100), beyond float32.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

# Stands for log 0 where an anchor has no column left, so that no nan comes of it.
LOG_NOTHING = -1e4


def log_weights(is_excluded_BC: Bool[Tensor, "B C"], dtype: torch.dtype) -> Float[Tensor, "B C"]:
    """Weigh the columns so that a weighted sum is the mean over those not excluded.

    Definition: -log(number of columns not excluded for b), and -inf where excluded. An anchor
    without any column gets a mean of about 0 instead of nan.
    """
    num_kept_B1 = (~is_excluded_BC).sum(dim=1, keepdim=True)
    nothing_B1 = torch.where(num_kept_B1 > 0, -math.inf, LOG_NOTHING).to(dtype)
    return torch.where(is_excluded_BC, nothing_B1, -num_kept_B1.to(dtype).log())


def scaled_margins(
    anchors_SBD: Float[Tensor, "S B D"],
    columns_SCD: Float[Tensor, "S C D"],
    own_cosine_B: Float[Tensor, " B"],
    temperature: Float[Tensor, "*SB"],
) -> Float[Tensor, "S B C"]:
    """Return (cos(anchor, column) - cos(anchor, own partner)) / tau.

    Args:
        temperature: one for all, or one for each side and anchor [S, B].
    """
    cosines_SBC = anchors_SBD @ columns_SCD.transpose(1, 2)
    return (cosines_SBC - own_cosine_B[:, None]) / temperature[..., None]


def log_normalizers(
    margins_SBC: Float[Tensor, "S B C"], log_weights_BC: Float[Tensor, "B C"], eps: float
) -> Float[Tensor, "S B"]:
    """Return log(eps + sum over columns of weight * exp(margin)), nats.

    Source: section 1.1 of the NeuCLIP notation, g and a*; against loops in
    tests/objectives/test_margins.py.
    """
    return add_eps(torch.logsumexp(margins_SBC + log_weights_BC, dim=2), eps)


def log_mean(
    log_sums_SB: Float[Tensor, "S B"], log_counts_B: Float[Tensor, " B"]
) -> Float[Tensor, "S B"]:
    """Return log(sum / count); of nothing it is about log 0, not nan."""
    return torch.where(torch.isneginf(log_counts_B), LOG_NOTHING, log_sums_SB - log_counts_B)


@torch.no_grad()
def pair_losses(log_sums_SB: Float[Tensor, "2 B"]) -> Float[Tensor, " B"]:
    """Return -log softmax at the own pair, both sides summed, nats, without gradient.

    Args:
        log_sums_SB: log of the sum over the other pairs of exp(margin).
    """
    return functional.softplus(log_sums_SB, threshold=40).sum(dim=0)


def without_eps(log_values: Tensor, eps: float) -> Tensor:
    """Return log(exp(values) - eps), the inverse of `add_eps`; -inf where nothing but eps is left."""
    if eps == 0:
        return log_values
    return log_values + torch.log1p(-(math.log(eps) - log_values).exp().clamp(max=1))


def mixed(
    log_one: Float[Tensor, "*anchors"],
    log_other: Float[Tensor, "*anchors"],
    share: float | Float[Tensor, ""],
) -> Float[Tensor, "*anchors"]:
    """Return log((1 - share) exp(one) + share exp(other)).

    Args:
        share: of the other, strictly between 0 and 1.
    """
    if not isinstance(share, Tensor):
        return torch.logaddexp(log_one + math.log1p(-share), log_other + math.log(share))
    return torch.logaddexp(log_one + torch.log1p(-share), log_other + share.log())


def add_eps(log_values: Tensor, eps: float) -> Tensor:
    """Return log(eps + exp(values))."""
    if eps == 0:
        return log_values
    return torch.logaddexp(log_values, torch.full_like(log_values, math.log(eps)))
