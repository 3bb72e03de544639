"""Hold the log-normalizers of a run, and of its observers, against exact ones while training goes on.

Legend: S side (0 image anchors, 1 text anchors), A anchors, G global batch.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from neuclip.distributed.collectives import all_gather
from neuclip.foundation.randomness import permutation
from neuclip.loading.samples import ShardSamples
from neuclip.loading.visits import MAIN
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.exact import (
    EstimateError,
    Features,
    error_of,
    exact_log_normalizers,
    implied_by_infonce,
)
from neuclip.training.probe_config import ProbeConfig
from neuclip.training.trainer import Trainer

_CHUNK = 512
_PROBE_SALT = 0x9B0BE
EPS = 1e-14


class NormalizerProbe:
    """Measures the error of log-normalizers on fixed anchors.

    The contrast set is a fixed random part of the training set (all of it where it is not larger), encoded
    with the present weights in evaluation mode; the anchors are the first of it. What is compared with the
    exact values: what the objective would use for these anchors, what the present batch gives, what InfoNCE
    makes of that, and what each observer would use.
    """

    def __init__(
        self, config: ProbeConfig, samples: ShardSamples, *, count: int, seed: int
    ) -> None:
        self.every_steps = config.every_steps
        self._samples = samples
        self._ids = permutation(count, seed=seed ^ _PROBE_SALT)[: config.samples].tolist()
        self._num_anchors = min(config.anchors, len(self._ids))

    def is_due(self, step: int, total_steps: int) -> bool:
        """Tell whether update `step` (0-based) is measured; the last one always is."""
        return step % self.every_steps == 0 or step == total_steps - 1

    def measure(self, trainer: Trainer, encoded: Encoded) -> dict[str, float]:
        """Return the errors as named numbers, of main views; every rank calls it and computes the same."""
        world, objective = trainer.world, trainer.objective
        present = Features(
            all_gather(encoded.images[MAIN].unit, world),
            all_gather(encoded.texts[MAIN].unit, world),
            all_gather(encoded.sample_ids, world),
        )
        whole = encode_samples(trainer.encoders, self._samples, self._ids, trainer.world.device)
        anchors = whole.at(torch.arange(self._num_anchors, device=world.device))
        temperature = objective.temperature.detach()
        exact_SA = exact_log_normalizers(anchors, whole, temperature, eps=EPS)
        batch_SA = exact_log_normalizers(anchors, present, temperature, eps=EPS)
        estimates = {
            "batch": batch_SA,
            "implied": implied_by_infonce(batch_SA, len(present.sample_ids) - 1),
        }
        values: dict[str, float] = {}
        if (
            objective.learned_temperature is not None
        ):  # else each sample's is at its own temperature
            own = objective.predict(anchors.images, anchors.texts, anchors.sample_ids)
            error = _error(own, exact_SA) if own else error_of(batch_SA, exact_SA)
            values |= _named("normalizer", error)
        for name, found_SA in estimates.items():
            values |= _named(f"normalizer_{name}", error_of(found_SA, exact_SA))
        if trainer.observers is not None:
            found = trainer.observers.predict(anchors.images, anchors.texts, anchors.sample_ids)
            for name, sides in found.items():
                values |= _named(f"observer_{name}", _error(sides, exact_SA))
        return values


@torch.no_grad()
def encode_samples(
    encoders: torch.nn.Module, samples: ShardSamples, ids: list[int], device: torch.device
) -> Features:
    """Return the features of training samples as their first visit shows them, in evaluation mode."""
    was_training = encoders.training
    encoders.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(ids), _CHUNK):
        batch = samples.__getitems__([(0, sample_id) for sample_id in ids[start : start + _CHUNK]])
        batch = batch.to(device)
        images, texts = encoders(*batch.inputs(view=MAIN))
        parts.append((images[MAIN].unit, texts[MAIN].unit, batch.sample_ids))
    encoders.train(was_training)
    return Features(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _error(sides: tuple[Tensor, Tensor], exact_SA: Float[Tensor, "2 A"]) -> EstimateError:
    return error_of(torch.stack(sides).float(), exact_SA)


def _named(prefix: str, error: EstimateError) -> dict[str, float]:
    return {
        f"{prefix}_mse": error.mse,
        f"{prefix}_bias": error.bias,
        f"{prefix}_correlation": error.correlation,
    }
