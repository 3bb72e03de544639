"""One update, readable in one place: features, objective, backward, clip, update, advance."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from neuclip.distributed.collectives import average_gradients
from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError, NumericsError
from neuclip.loading.samples import Batch
from neuclip.objectives.objective import Objective, ObjectiveResult
from neuclip.objectives.shadows import Shadows
from neuclip.towers.model import Towers
from neuclip.training.config import TrainConfig
from neuclip.training.feature_cache import FeatureCache, Features
from neuclip.training.optimiser import build_optimiser, set_learning_rate

_SEED_FACTOR = 1_000_003


@dataclass(frozen=True)
class Forward:
    """What a batch gave before the update."""

    image_features: Float[Tensor, "B D"]
    text_features: Float[Tensor, "B D"]
    result: ObjectiveResult
    leaves: Features | None = None
    """With micro-batches, the same features where the loss's graph begins."""


class Encoders(nn.Module):
    """Both towers as one module, so that DDP sees one forward pass."""

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.model = towers.model
        for name, parameter in self.model.named_parameters():
            if name in ("logit_scale", "logit_bias"):  # the objective has the temperature
                parameter.requires_grad_(False)  # noqa: FBT003  # torch's own signature
        self._towers = towers

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit-norm image and text features [B, D]."""
        return self._towers.image_features(images), self._towers.text_features(tokens)


class Trainer:
    """Encoders, objective and optimiser, and the number of updates they have seen."""

    def __init__(
        self,
        towers: Towers,
        objective: Objective,
        config: TrainConfig,
        *,
        seed: int,
        total_steps: int,
        world: World,
    ) -> None:
        self.towers, self.objective, self.config, self.world = towers, objective, config, world
        self.total_steps, self.step = total_steps, 0
        self.corrupt: set[int] = set()  # sample ids that did not decode so far
        self._seed = seed
        self.encoders = Encoders(towers)
        self.optimiser = build_optimiser(self.encoders, objective, config)
        self._parallel: nn.Module = (
            self.encoders if world.size == 1 else DistributedDataParallel(self.encoders)
        )
        on_cuda = world.device.type == "cuda"
        wants_bf16 = config.precision == "bf16" or (
            config.precision == "auto" and on_cuda and torch.cuda.is_bf16_supported()
        )
        self._autocast = torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=wants_bf16)
        self.shadows = _shadows(objective, config, seed=seed, world=world)
        self._cache = (
            None
            if config.micro_batch is None
            else FeatureCache(
                self.encoders, self._parallel, encode=self._encode, micro_batch=config.micro_batch
            )
        )

    @property
    def samples_seen(self) -> int:
        """Image-text pairs consumed so far by all ranks."""
        return self.step * self.config.global_batch

    def forward(self, batch: Batch) -> Forward:
        """Encode a batch and ask the objective, once for the whole batch."""
        self._parallel.train()
        self.objective.train()
        leaves = self._cache.fill(batch) if self._cache else None
        features = leaves or self._encode(self._parallel, batch.images, batch.tokens)
        result = self.objective(*features, batch.sample_ids)
        image_features, text_features = (side.detach() for side in features)
        if self.shadows is not None:
            self.shadows.observe(image_features, text_features, batch.sample_ids)
        return Forward(image_features, text_features, result, leaves)

    def update(self, batch: Batch, forward: Forward) -> tuple[Tensor, float]:
        """Update the weights; return the gradient norm before clipping and the learning rate.

        Raises: NumericsError: if the loss or the gradient is not finite; the weights are as before then.
        """
        loss = forward.result.loss
        self._require_finite("loss", loss, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # with micro-batches as far as the features
        average_gradients(self.objective.parameters(), self.world)
        own_norm = _gradient_norm(self.objective.parameters())
        self._require_finite("gradient norm of the objective's parameters", own_norm, batch)
        if self._cache and forward.leaves:
            feature_norm = _gradient_norm(forward.leaves)
            self._require_finite("gradient norm of the features", feature_norm, batch)
            self._cache.backward(batch, forward.leaves)
        limit = self.config.grad_clip_norm
        norm = nn.utils.clip_grad_norm_(
            self.encoders.parameters(), float("inf") if limit is None else limit
        )
        self._require_finite("gradient norm", norm, batch)
        rate = set_learning_rate(
            self.optimiser,
            self.objective,
            self.config,
            step=self.step,
            total_steps=self.total_steps,
        )
        self.optimiser.step()
        self.step += 1
        self.objective.advance(self.step)
        return norm.detach(), rate

    def _encode(
        self,
        encoders: Callable[[Tensor, Tensor], Features],
        images: Tensor,
        tokens: Tensor,
        micro: int = 0,
    ) -> Features:
        """Return features. Random numbers inside (dropout) depend on step, rank and micro-batch alone."""
        draws = 0
        for number in (micro, self._seed, self.step, self.world.rank):
            draws = draws * _SEED_FACTOR + number
        torch.manual_seed(draws % 2**64)
        with self._autocast:
            return encoders(images, tokens)

    def _require_finite(self, what: str, value: Tensor, batch: Batch) -> None:
        if torch.isfinite(value):
            return
        raise NumericsError(
            f"the {what} is {value.item()} on rank {self.world.rank} at step {self.step}, sample ids "
            f"{batch.sample_ids[:8].tolist()}...; lower train.lr or lengthen train.warmup_steps, then run again: "
            "training resumes from the last checkpoint"
        )


def _gradient_norm(tensors: Iterable[Tensor]) -> Tensor:
    return nn.utils.get_total_norm([x.grad for x in tensors if x.grad is not None])


def _shadows(
    objective: Objective, config: TrainConfig, *, seed: int, world: World
) -> Shadows | None:
    if config.probe is None or not config.probe.shadows:
        return None
    if objective.learned_temperature is None:
        raise ConfigError(
            f"train.probe.shadows share the run's temperature, and {config.objective.name} has one "
            "for every sample; leave the shadows out or train with another objective"
        )
    return Shadows(
        config.probe.shadows,
        objective.learned_temperature,
        feature_dim=objective.feature_dim,
        num_samples=objective.num_samples,
        seed=seed,
        world=world,
    )
