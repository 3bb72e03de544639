"""InfoNCE, the objective of CLIP and OpenCLIP.

Legend: S side (0 image anchors, 1 text anchors), B local batch, G global batch, D embedding width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from neuclip.distributed.world import World
from neuclip.objectives.config import OpenClipConfig
from neuclip.objectives.margins import (
    both_sides,
    log_normalizers,
    log_weights,
    own_columns,
    scaled_margins,
)
from neuclip.objectives.objective import Objective, ObjectiveResult
from neuclip.objectives.temperature import Temperature

# The eps of the reported log-normalizers only; the loss itself has none.
REPORT_EPS = 1e-14


class OpenClip(Objective):
    """Tell each image's own text from all texts of the global batch, and each text's own image.

    Definition: mean over anchors i of -log softmax_j(cos_ij / tau) at j = i, then the mean of the
    image side and the text side. tau is learned by the same gradient and kept in [0.01, 1].
    Each rank computes the two [B, G] blocks of its own anchors; gathered features carry gradients.
    `log_normalizers` leaves out the own pair: log(1e-14 + mean over j != i of exp(margin / tau)).

    Source: CLIP 2021, figure 3; equals open_clip ClipLoss(local_loss=True, gather_with_grad=True),
    see tests/objectives/test_openclip.py.
    """

    def __init__(self, config: OpenClipConfig, *, feature_dim: int, world: World) -> None:
        temperature = Temperature(
            config.temperature_init,
            minimum=0.01,
            maximum=1.0,
            is_learned=config.learn_temperature,
        )
        super().__init__(
            feature_dim, temperature, temperature_lr=config.temperature_lr, world=world
        )

    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],  # noqa: ARG002  # no state per sample here
    ) -> ObjectiveResult:
        """Return the loss, nats per anchor; see `Objective.forward`."""
        self.check_features(image_features, text_features)
        with torch.autocast(image_features.device.type, enabled=False):
            temperature = self.temperature
            anchors_SBD, contrasts_SGD = both_sides(
                image_features, text_features, dtype=temperature.dtype, world=self.world
            )
            is_own_BG = own_columns(anchors_SBD, self.world)
            own_cosine_B = (anchors_SBD[0] * anchors_SBD[1]).sum(dim=1)
            margins_SBG = scaled_margins(anchors_SBD, contrasts_SGD, own_cosine_B, temperature)
            # A softmax is unmoved by the shift from cosines to margins.
            own_B = is_own_BG.int().argmax(dim=1)
            loss = functional.cross_entropy(margins_SBG.flatten(0, 1), own_B.repeat(2))
            with torch.no_grad():
                estimates_SB = log_normalizers(
                    margins_SBG, log_weights(is_own_BG, margins_SBG.dtype), REPORT_EPS
                )
        return ObjectiveResult(
            loss=loss,
            log_normalizers=(estimates_SB[0], estimates_SB[1]),
            metrics={
                "temperature": temperature.detach(),
                "log_normalizer_mean": estimates_SB.mean(),
            },
        )
