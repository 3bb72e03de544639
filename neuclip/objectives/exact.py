"""Exact log-normalizers over a whole data set, and how far estimates are from them.

Legend: S side (0 image anchors, 1 text anchors), A anchors, N pairs of the data set, D width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.objectives.margins import add_eps, scaled_margins

# Similarities that live at a time: 64 MiB a side in float32.
_MAX_SIMILARITIES = 1 << 24


@dataclass(frozen=True)
class Features:
    """Unit-norm features of pairs with their ids."""

    images: Float[Tensor, "N D"]
    texts: Float[Tensor, "N D"]
    sample_ids: Int[Tensor, " N"]

    def at(self, places: Int[Tensor, " A"]) -> "Features":
        """Return the pairs at these places."""
        return Features(self.images[places], self.texts[places], self.sample_ids[places])


@dataclass(frozen=True)
class EstimateError:
    """How far estimates are from exact values, over both sides.

    Args:
        mse: mean square of the difference, nats squared.
        bias: mean of estimate minus exact, nats.
        correlation: of estimates and exact values, averaged over the sides; nan if one is constant.
        known: share of anchors that there is an estimate of; the others do not count.
    """

    mse: float
    bias: float
    correlation: float
    known: float


@torch.no_grad()
def exact_log_normalizers(
    anchors: Features, contrasts: Features, temperature: Float[Tensor, ""], *, eps: float
) -> Float[Tensor, "2 A"]:
    """Return log(eps + mean over contrasts of other samples of exp(margin / tau)), in slices.

    Source: the definition of a*; against loops in tests/objectives/test_exact.py.
    """
    anchors_SAD = torch.stack([anchors.images, anchors.texts]).float()
    own_A = (anchors_SAD[0] * anchors_SAD[1]).sum(dim=1)
    contrasts_SND = torch.stack([contrasts.texts, contrasts.images]).float()
    sums_SA = torch.full_like(anchors_SAD[..., 0], -torch.inf)
    counts_A = torch.zeros_like(own_A)
    step = max(1, _MAX_SIMILARITIES // len(own_A))
    for first in range(0, contrasts_SND.shape[1], step):
        ids_C = contrasts.sample_ids[first : first + step]
        is_own_AC = anchors.sample_ids[:, None] == ids_C
        columns_SCD = contrasts_SND[:, first : first + step]
        margins_SAC = scaled_margins(anchors_SAD, columns_SCD, own_A, temperature.float())
        part_SA = torch.logsumexp(margins_SAC.masked_fill(is_own_AC, -torch.inf), dim=2)
        sums_SA = torch.logaddexp(sums_SA, part_SA)
        counts_A += (~is_own_AC).sum(dim=1)
    return add_eps(sums_SA - counts_A.clamp(min=1).log(), eps)


def implied_by_infonce(log_batch_SA: Float[Tensor, "2 A"], num_others: int) -> Float[Tensor, "2 A"]:
    """Return the log-normalizers that InfoNCE's gradient uses: eps is 1 / (B - 1)."""
    return add_eps(log_batch_SA, 1 / num_others)


def error_of(estimates: Float[Tensor, "2 A"], exact: Float[Tensor, "2 A"]) -> EstimateError:
    """Compare estimates with exact values; nan stands for no estimate."""
    is_known = torch.isfinite(estimates)
    known = is_known.float().mean().item()
    if known == 0:
        return EstimateError(torch.nan, torch.nan, torch.nan, 0.0)
    difference = (estimates - exact)[is_known]
    sides = [
        torch.corrcoef(torch.stack([found[kept], true[kept]]))[0, 1]
        for found, true, kept in zip(estimates, exact, is_known, strict=True)
        if kept.sum() > 1
    ]
    return EstimateError(
        mse=difference.square().mean().item(),
        bias=difference.mean().item(),
        correlation=torch.stack(sides).mean().item() if sides else torch.nan,
        known=known,
    )
