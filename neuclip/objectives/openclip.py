"""InfoNCE, the objective of CLIP and OpenCLIP.

Legend: S side (0 image anchors, 1 text anchors), B local batch, G global batch, D embedding width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuclip.distributed.world import World
from neuclip.objectives.config import OpenClipConfig
from neuclip.objectives.infonce import infonce
from neuclip.objectives.margins import add_eps
from neuclip.objectives.objective import Objective, ObjectiveResult
from neuclip.objectives.temperature import Temperature

# The eps of the reported log-normalizers only; the loss itself has none.
REPORT_EPS = 1e-14


class OpenClip(Objective):
    """Tell each image's own text from all texts of the global batch, and each text's own image.

    Definition: mean over anchors i of -log softmax_j(cos_ij / tau) at j = i, then the mean of the
    image side and the text side; equally log(1 + sum over the other pairs of exp(margin / tau)).
    tau is learned by the same gradient. `log_normalizers` leaves out the own pair:
    log(1e-14 + mean over j != i of exp(margin / tau)).

    Source: CLIP 2021, figure 3; equals open_clip ClipLoss(local_loss=True, gather_with_grad=True),
    see tests/objectives/test_openclip.py.
    """

    def __init__(
        self, config: OpenClipConfig, *, feature_dim: int, num_samples: int, seed: int, world: World
    ) -> None:
        del seed
        super().__init__(
            Temperature(config),
            feature_dim=feature_dim,
            num_samples=num_samples,
            world=world,
            reduction=config.reduction,
        )

    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> ObjectiveResult:
        """Return the loss, nats per anchor; see `Objective.forward`."""
        with torch.autocast(image_features.device.type, enabled=False):
            batch = self.collect(image_features, text_features, sample_ids)
            temperature = self.temperature
            losses_SB, others_SB = infonce(batch, temperature)
            as_contrasts = batch.contrast_role(losses_SB - batch.log_counts_B, temperature)
            estimates_SB = add_eps((others_SB - batch.log_counts_B).detach(), REPORT_EPS)
        return ObjectiveResult(
            loss=losses_SB.mean() + as_contrasts / 2,
            log_normalizers=(estimates_SB[0], estimates_SB[1]),
            metrics={
                "temperature": temperature.detach(),
                "log_normalizer_mean": estimates_SB.mean(),
            },
            pair_losses=losses_SB.detach().sum(dim=0),
        )
