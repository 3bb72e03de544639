"""The sigmoid loss of SigLIP.

Legend: B local images, T texts of one rank's block, D embedding width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from neuclip.distributed.collectives import all_gather, gather_with_gradient, ring_shift
from neuclip.distributed.world import World
from neuclip.objectives import blocks
from neuclip.objectives.config import SigLipConfig
from neuclip.objectives.loss_part import TrainableGroup
from neuclip.objectives.objective import Objective, ObjectiveResult
from neuclip.objectives.temperature import Temperature

# Beyond it softplus(x) is x; torch's own 20 costs 2e-9.
_THRESHOLD = 40.0


class SigLip(Objective):
    """Say of every image and text of the global batch whether they are a pair.

    Definition: (1 / G) sum_ij softplus(-z_ij (cos_ij / tau + bias)), z = 1 for a pair, -1 for
    others; tau and bias are learned. A text of the image's own sample at another place of the
    batch is neither and left out. There is no normalizer.

    `ring`: texts travel from rank to rank, one block at a time, so that a rank holds two blocks
    of texts, however many ranks there are; gradients travel back the same way.

    Source: SigLIP, arXiv 2303.15343, algorithm 1; equals open_clip SigLipLoss, see
    tests/objectives/test_siglip.py.
    """

    def __init__(
        self, config: SigLipConfig, *, feature_dim: int, num_samples: int, seed: int, world: World
    ) -> None:
        del seed
        super().__init__(
            Temperature(config), feature_dim=feature_dim, num_samples=num_samples, world=world
        )
        self.exchange = config.exchange
        self.logit_bias = nn.Parameter(torch.tensor(config.bias_init))

    def trainable(self) -> list[TrainableGroup]:
        """Return the temperature and the bias; both follow the temperature's rate."""
        tau = self.learned_temperature
        assert tau is not None, "it is built with one"
        bias = TrainableGroup("logit_bias", [self.logit_bias], tau.lr, tau.share)
        return [*super().trainable(), bias]

    def logit_scale_and_bias(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return both as learned; see `Objective.logit_scale_and_bias`."""
        return super().logit_scale_and_bias()[0], self.logit_bias.detach()

    @torch.no_grad()
    def start_at(self, log_scale: Float[Tensor, ""], bias: Float[Tensor, ""] | None) -> None:
        """Start from both; a model without a bias leaves the section's."""
        super().start_at(log_scale, None)
        if bias is not None:
            self.logit_bias.copy_(bias)

    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> ObjectiveResult:
        """Return the loss, nats per image; see `Objective.forward`."""
        self.check(image_features, text_features, sample_ids)
        with torch.autocast(image_features.device.type, enabled=False):
            dtype = torch.promote_types(image_features.dtype, torch.float32)
            images_BD, texts_TD = image_features.to(dtype), text_features.to(dtype)
            temperature = self.temperature
            logits_B = (images_BD * texts_TD).sum(dim=1) / temperature + self.logit_bias
            total = functional.softplus(-logits_B, threshold=_THRESHOLD).sum()
            if self.exchange == "ring":
                total = total + self._around_the_ring(images_BD, texts_TD, sample_ids)
            else:
                texts_GD = gather_with_gradient(texts_TD, self.world)
                ids_G = all_gather(sample_ids, self.world)
                total = total + self._negatives(images_BD, texts_GD, sample_ids, ids_G)
        return ObjectiveResult(
            loss=total / len(sample_ids),
            log_normalizers=None,
            metrics={
                "temperature": temperature.detach(),
                "logit_bias": self.logit_bias.detach().clone(),
                "own_pair_probability": logits_B.detach().sigmoid().mean(),
            },
        )

    def _around_the_ring(
        self, images_BD: Tensor, texts_TD: Tensor, sample_ids: Tensor
    ) -> Float[Tensor, ""]:
        total = self._negatives(images_BD, texts_TD, sample_ids, sample_ids)
        ids_T = sample_ids
        for _ in range(self.world.size - 1):
            texts_TD, ids_T = ring_shift(texts_TD, self.world), ring_shift(ids_T, self.world)
            total = total + self._negatives(images_BD, texts_TD, sample_ids, ids_T)
        return total

    def _negatives(
        self,
        images_BD: Float[Tensor, "B D"],
        texts_TD: Float[Tensor, "T D"],
        ids_B: Int[Tensor, " B"],
        ids_T: Int[Tensor, " T"],
    ) -> Float[Tensor, ""]:
        """Return the summed loss of the images against texts that are not theirs."""
        if blocks.are_many(len(ids_B), len(ids_T)):
            scaled_SBD = (images_BD / self.temperature)[None]
            table = blocks.Table(scaled_SBD, texts_TD[None], ids_B, ids_T)
            return blocks.softplus_sum(table, self.logit_bias, threshold=_THRESHOLD)
        logits_BT = images_BD @ texts_TD.T / self.temperature + self.logit_bias
        is_own_BT = ids_B[:, None] == ids_T
        return functional.softplus(
            logits_BT.masked_fill(is_own_BT, -torch.inf), threshold=_THRESHOLD
        ).sum()
