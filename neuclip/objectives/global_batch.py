"""The global batch as one rank sees it, and the two ways in which ranks share its gradient.

Legend: S side (0 image anchors, 1 text anchors), B local anchors, G global batch = B times ranks,
D embedding width, tau temperature.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuclip.distributed.collectives import all_gather, gather_with_gradient
from neuclip.distributed.world import World
from neuclip.objectives import blocks
from neuclip.objectives.margins import (
    add_eps,
    log_mean,
    log_normalizers,
    log_weights,
    scaled_margins,
)


@dataclass(frozen=True)
class GlobalBatch:
    """Local anchors of both sides, and for each side the whole batch it is compared to.

    Side 0: images against the texts of all ranks; side 1: texts against the images of all ranks.
    A sample that is in the batch twice is no negative of itself: columns of the anchor's own
    sample id are left out.

    `gather`: gradients flow through the gathered features back to the rank that owns them.
    `two_role`: gathered features are constants; `contrast_role` adds what the local features are
    due as contrasts of all anchors, for which only one number an anchor and side is gathered.
    """

    anchors_SBD: Float[Tensor, "2 B D"]
    contrasts_SGD: Float[Tensor, "2 G D"]
    own_cosine_B: Float[Tensor, " B"]
    sample_ids_B: Int[Tensor, " B"]
    sample_ids_G: Int[Tensor, " G"]
    is_two_role: bool
    world: World

    @classmethod
    def collect(
        cls,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
        *,
        sample_ids_G: Int[Tensor, " G"],
        reduction: str,
        world: World,
    ) -> "GlobalBatch":
        """Gather the batch of all ranks; features of less than float32 become float32."""
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        anchors_BSD = torch.stack([image_features, text_features], dim=1).to(dtype)
        is_two_role = reduction == "two_role" and world.size > 1
        gather = all_gather if is_two_role else gather_with_gradient
        anchors_SBD = anchors_BSD.transpose(0, 1)
        return cls(
            anchors_SBD=anchors_SBD,
            contrasts_SGD=gather(anchors_BSD, world).flip(1).transpose(0, 1),
            own_cosine_B=(anchors_SBD[0] * anchors_SBD[1]).sum(dim=1),
            sample_ids_B=sample_ids,
            sample_ids_G=sample_ids_G,
            is_two_role=is_two_role,
            world=world,
        )

    @cached_property
    def is_own_BG(self) -> Bool[Tensor, "B G"]:
        """Mark the columns that are of the anchor's own sample."""
        return self.sample_ids_B[:, None] == self.sample_ids_G

    @cached_property
    def log_counts_B(self) -> Float[Tensor, " B"]:
        """Return the log of the number of other pairs that an anchor is compared with."""
        if self.is_large:
            counts_B = blocks.count_others(self.sample_ids_B, self.sample_ids_G)
        else:
            counts_B = (~self.is_own_BG).sum(dim=1)
        return counts_B.to(self.own_cosine_B.dtype).log()

    @property
    def is_large(self) -> bool:
        """Tell whether margins are too many to keep, so that what is summed over them is computed in blocks."""
        return blocks.are_many(2 * len(self.sample_ids_B), len(self.sample_ids_G))

    def margins(self, temperature: Float[Tensor, "*SB"]) -> Float[Tensor, "2 B G"]:
        """Return the margins of the local anchors to all of the batch, in units of tau."""
        return scaled_margins(self.anchors_SBD, self.contrasts_SGD, self.own_cosine_B, temperature)

    def log_normalizers(
        self, temperature: Float[Tensor, "*SB"], eps: float
    ) -> Float[Tensor, "2 B"]:
        """Return log(eps + mean over the batch's other pairs of exp(margin)), nats."""
        if self.is_large:
            return add_eps(log_mean(self.log_sums(temperature), self.log_counts_B), eps)
        margins_SBG = self.margins(temperature)
        return log_normalizers(margins_SBG, log_weights(self.is_own_BG, margins_SBG.dtype), eps)

    def log_sums(self, temperature: Float[Tensor, "*SB"]) -> Float[Tensor, "2 B"]:
        """Return the log of the sum over the batch's other pairs of exp(margin)."""
        if self.is_large:
            return blocks.log_sums(self._table(temperature)) - self.own_cosine_B / temperature
        margins_SBG = self.margins(temperature).masked_fill(self.is_own_BG, -torch.inf)
        return torch.logsumexp(margins_SBG, dim=2)

    @torch.no_grad()
    def weighted_margins(
        self, temperature: Float[Tensor, "*SB"], log_denominators_SB: Float[Tensor, "2 B"]
    ) -> Float[Tensor, "2 B"]:
        """Return the mean over the batch's other pairs of exp(margin - denominator) margin, without gradient."""
        if self.is_large:
            table, own_SB = self._table(temperature), self.own_cosine_B / temperature
            sums_SB = blocks.log_sums(table)
            means_SB = blocks.mean_logits(table, sums_SB) - own_SB
            return (sums_SB - own_SB - self.log_counts_B - log_denominators_SB).exp() * means_SB
        margins_SBG = self.margins(temperature)
        weights_BG = log_weights(self.is_own_BG, margins_SBG.dtype)
        shares_SBG = (margins_SBG + weights_BG - log_denominators_SB[..., None]).exp()
        return (shares_SBG * margins_SBG).sum(dim=2)

    def _table(self, temperature: Float[Tensor, "*SB"]) -> blocks.Table:
        scaled_SBD = self.anchors_SBD / temperature[..., None]
        return blocks.Table(scaled_SBD, self.contrasts_SGD, self.sample_ids_B, self.sample_ids_G)

    def contrast_role(
        self,
        log_denominators_SB: Float[Tensor, "2 B"],
        temperature: Float[Tensor, "*SB"],
    ) -> Float[Tensor, ""]:
        """Return a zero whose gradient is what local features are due as contrasts of all anchors.

        Definition: (1 / B) sum over all anchors i of the global batch, local contrasts j of other
        samples and sides of exp(margin_ij / tau_i - denominator_i) / count_i, with i and tau_i
        constant. Averaged over ranks together with the loss of the local anchors it has the
        gradient of the global batch's loss. Zero without gradient where gathered features carry
        gradients themselves.

        Args:
            log_denominators_SB: of the local anchors; gathered here.
        Source: FastCLIP, arXiv 2407.01445; against loops over ranks in tests/oracles.
        """
        if not self.is_two_role:
            return self.own_cosine_B.new_zeros(())
        temperature = temperature.detach()
        offsets_SB = self.own_cosine_B / temperature + log_denominators_SB + self.log_counts_B
        offsets_SB = offsets_SB.detach()
        offsets_SG = all_gather(offsets_SB.T, self.world).T
        temperature_SG = (
            all_gather(temperature.T, self.world).T if temperature.ndim else temperature
        )
        all_anchors_SGD = self.contrasts_SGD.flip(0)
        local_contrasts_SBD = self.anchors_SBD.flip(0)
        if self.is_large:
            as_rows = blocks.Table(
                local_contrasts_SBD,
                all_anchors_SGD / temperature_SG[..., None],
                self.sample_ids_B,
                self.sample_ids_G,
                -offsets_SG,
            )
            role = blocks.log_sums(as_rows).exp().sum() / len(self.sample_ids_B)
            return role - role.detach()
        logits_SGB = all_anchors_SGD @ local_contrasts_SBD.transpose(1, 2)
        logits_SGB = logits_SGB / temperature_SG[..., None] - offsets_SG[..., None]
        weights_SGB = logits_SGB.masked_fill(self.is_own_BG.T, -torch.inf).exp()
        role = weights_SGB.sum() / len(self.sample_ids_B)
        return role - role.detach()
