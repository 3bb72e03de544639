"""Estimators that watch a training run, and the exact log-normalizers that they are held against.

Legend: S side (0 image anchors, 1 text anchors), K anchors, N training pairs, D width, B batch,
g mean over the other pairs of exp(margin / tau).
"""

import math
import time
from typing import Any

import torch
from torch import Tensor

from bench.objectives.records import Settings
from neuclip.foundation.randomness import generator, permutation
from neuclip.objectives.margins import log_normalizers, log_weights, scaled_margins
from neuclip.objectives.objective import Objective
from neuclip.objectives.registry import build

MINI_BATCH, IMPLIED = "mini-batch", "OpenCLIP, implied"
_ANCHOR_SALT, _OTHERS_VIEW = 0xA4C, 40
_CHUNK = 125


class Observers:
    """Objectives that see every batch of a run, with its temperature, and have no influence on it.

    `watch` shows them a batch before the run's own objective takes its step; `measure` compares
    all of them at the present weights, on one fixed random list of anchors, with
    a* = log(eps + g) over the whole training set. The mini-batch's estimate log(eps + g_B) and the
    one that OpenCLIP's loss implies, log(1 / (B - 1) + g_B), take B - 1 random others for each
    anchor. What averages per sample predict is what they have stored.
    """

    def __init__(
        self,
        settings: Settings,
        objective: Objective,
        feature_dim: int,
        num_samples: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.objective = objective
        self.found: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._observers: dict[str, Objective] = {}
        for name, config in settings.get("observers", {}).items():
            observer = build(config, feature_dim=feature_dim, num_samples=num_samples).to(device)
            observer.learned_temperature = objective.learned_temperature
            self._observers[name] = observer

    @property
    def objectives(self) -> list[Objective]:
        """What watches."""
        return list(self._observers.values())

    @torch.no_grad()
    def watch(self, images: Tensor, texts: Tensor, ids: Tensor, step: int) -> None:
        """Show a batch; `seconds` then says how long it took."""
        start = time.process_time()
        for observer in self._observers.values():
            observer(images.detach(), texts.detach(), ids)
            observer.advance(step)
        self.seconds = time.process_time() - start

    def is_due(self, step: int, total_steps: int) -> bool:
        """Tell whether to measure after a step; the last time is at the end."""
        checkpoints = self.settings.get("checkpoints", 0)
        return any(step == total_steps * i // checkpoints for i in range(1, checkpoints + 1))

    @torch.no_grad()
    def measure(self, images_ND: Tensor, texts_ND: Tensor, *, step: int) -> None:
        """Hold every estimate against the exact one."""
        seed, eps = self.settings["seed"], self.settings["eps"]
        count, batch = len(images_ND), self.settings["batch"]
        ids = torch.from_numpy(permutation(count, seed=seed ^ _ANCHOR_SALT))
        ids_K = ids[: self.settings["anchors"]].to(images_ND.device)
        # Others are drawn anew for each anchor and checkpoint.
        random = generator(seed, epoch=step, view=_OTHERS_VIEW)
        others_KB = torch.from_numpy(random.integers(1, count, size=(len(ids_K), batch - 1)))
        others_KB = (ids_K[:, None] + others_KB.to(ids_K.device)) % count
        parts = [
            self._estimates(images_ND, texts_ND, part, others, eps)
            for part, others in zip(ids_K.split(_CHUNK), others_KB.split(_CHUNK), strict=True)
        ]
        exact_SK = torch.cat([part["exact"] for part in parts], dim=1)
        rows = {
            name: compare(torch.cat([part[name] for part in parts], dim=1), exact_SK)
            for name in parts[0]
            if name != "exact"
        }
        tau = self.objective.temperature.item()
        exact = {"mean": exact_SK.mean().item(), "std": exact_SK.std().item()}
        self.found.append({"step": step, "temperature": tau, "exact": exact, "rows": rows})

    def _estimates(
        self, images_ND: Tensor, texts_ND: Tensor, ids_K: Tensor, others_KB: Tensor, eps: float
    ) -> dict[str, Tensor]:
        images_KD, texts_KD = images_ND[ids_K], texts_ND[ids_K]
        margins_SKN = scaled_margins(
            torch.stack([images_KD, texts_KD]),
            torch.stack([texts_ND, images_ND]),
            (images_KD * texts_KD).sum(dim=1),
            self.objective.temperature,
        )
        is_own_KN = ids_K[:, None] == torch.arange(len(images_ND), device=ids_K.device)
        weights_KN = log_weights(is_own_KN, margins_SKN.dtype)
        batch_SKB = margins_SKN.gather(2, others_KB.expand(2, -1, -1))
        equal_KB = torch.full_like(batch_SKB[0], -math.log(others_KB.shape[1]))
        estimates = {
            "exact": log_normalizers(margins_SKN, weights_KN, eps),
            MINI_BATCH: log_normalizers(batch_SKB, equal_KB, eps),
            IMPLIED: log_normalizers(batch_SKB, equal_KB, 1 / others_KB.shape[1]),
        }
        for name, observer in self._observers.items():
            estimates[name] = torch.stack(observer.predict(images_KD, texts_KD, ids_K))
        return estimates


def compare(estimates_SK: Tensor, exact_SK: Tensor) -> dict[str, float]:
    """Return MSE, bias and correlation over the anchors of both sides for which there is a value.

    The correlation is the mean of that of each side.
    """
    is_known_SK = ~estimates_SK.isnan()
    error = (estimates_SK - exact_SK)[is_known_SK].double()
    correlations = [
        torch.corrcoef(torch.stack([estimates_SK[side][known], exact_SK[side][known]]))[0, 1]
        for side, known in enumerate(is_known_SK)
    ]
    return {
        "mse": error.square().mean().item(),
        "bias": error.mean().item(),
        "correlation": torch.stack(correlations).mean().item(),
        "known_share": is_known_SK.double().mean().item(),
    }
