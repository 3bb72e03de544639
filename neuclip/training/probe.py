"""Hold the log-normalizers that the objective uses against exact ones, while training goes on.

Legend: S side (0 image anchors, 1 text anchors), B local anchors, K probe samples, D width.
"""

import torch
from torch import Tensor

from neuclip.distributed.collectives import all_gather
from neuclip.foundation.randomness import permutation
from neuclip.loading.samples import Batch, ShardSamples
from neuclip.objectives.margins import log_normalizers, log_weights, scaled_margins
from neuclip.training.config import ProbeConfig
from neuclip.training.trainer import Forward, Trainer

_CHUNK = 512
_PROBE_SALT = 0x9B0BE
EPS = 1e-14


class NormalizerProbe:
    """Measures the mean squared error of log-normalizers on the anchors of a batch.

    The contrast set is a fixed random part of the training set (all of it where it is not larger), encoded
    with the present weights in evaluation mode. Definition and footing: section 1.3 of the NeuCLIP notes,
    MSE = 1/2 [mean over image anchors + mean over text anchors], nats squared.
    """

    def __init__(
        self, config: ProbeConfig, samples: ShardSamples, *, count: int, seed: int
    ) -> None:
        self.every_steps = config.every_steps
        self._samples = samples
        self._ids = permutation(count, seed=seed ^ _PROBE_SALT)[: config.samples].tolist()

    def measure(self, trainer: Trainer, batch: Batch, forward: Forward) -> dict[str, float]:
        """Return the error of the objective's estimates and of the batch's own; call it on every rank.

        Only the main rank computes; elsewhere the result is empty.
        """
        world = trainer.world
        everyone = [
            all_gather(x.float(), world) for x in (forward.image_features, forward.text_features)
        ]
        ids_of_everyone = all_gather(batch.sample_ids, world)
        if not world.is_main or forward.result.log_normalizers is None:
            return {}
        anchors_SBD = torch.stack([forward.image_features.float(), forward.text_features.float()])
        temperature = trainer.objective.temperature.detach()

        def exact(columns_SCD: Tensor, column_ids: Tensor) -> Tensor:
            own_cosine_B = (anchors_SBD[0] * anchors_SBD[1]).sum(dim=1)
            margins = scaled_margins(anchors_SBD, columns_SCD, own_cosine_B, temperature)
            weights = log_weights(batch.sample_ids[:, None] == column_ids[None, :], margins.dtype)
            return log_normalizers(margins, weights, EPS)

        images, texts, ids = self._encode(trainer)
        exact_SB = exact(torch.stack([texts, images]), ids)
        batch_SB = exact(torch.stack([everyone[1], everyone[0]]), ids_of_everyone)
        used_SB = torch.stack(forward.result.log_normalizers).float()
        return {
            "normalizer_mse": (used_SB - exact_SB).square().mean().item(),
            "normalizer_bias": (used_SB - exact_SB).mean().item(),
            "normalizer_mse_batch": (batch_SB - exact_SB).square().mean().item(),
        }

    def _encode(self, trainer: Trainer) -> tuple[Tensor, Tensor, Tensor]:
        """Return image features, text features [K, D] and ids [K] of the probe samples."""
        images: list[Tensor] = []
        texts: list[Tensor] = []
        ids: list[Tensor] = []
        trainer.encoders.eval()
        with torch.no_grad():
            for start in range(0, len(self._ids), _CHUNK):
                pairs = [(0, sample_id) for sample_id in self._ids[start : start + _CHUNK]]
                batch = self._samples.__getitems__(pairs).to(trainer.world.device)
                image_features, text_features = trainer.encoders(batch.images, batch.tokens)
                images.append(image_features)
                texts.append(text_features)
                ids.append(batch.sample_ids)
        trainer.encoders.train()
        return torch.cat(images), torch.cat(texts), torch.cat(ids)
