"""One update, readable in one place: features, objective, backward, clip, update, advance."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuclip.distributed.collectives import average_gradients
from neuclip.distributed.sharding import load_whole_, whole_on_main
from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.loading.samples import Batch
from neuclip.objectives.objective import Objective, ObjectiveResult
from neuclip.objectives.observers import Observers
from neuclip.towers.model import Towers
from neuclip.training.average import WeightAverage
from neuclip.training.config import TrainConfig
from neuclip.training.feature_cache import FeatureCache, Features
from neuclip.training.guard import LossGuard
from neuclip.training.numerics import gradient_norm, require_finite
from neuclip.training.optimiser import build_optimiser, set_learning_rate
from neuclip.training.parallel import lay_out
from neuclip.training.precision import is_in_bf16, set_float32_products
from neuclip.training.sample_statistics import SampleStatistics

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

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.model = towers.model
        for name, parameter in self.model.named_parameters():
            if name in ("logit_scale", "logit_bias"):  # the objective has the temperature
                parameter.requires_grad_(False)  # noqa: FBT003  # torch's own signature
        self._towers = towers
        std = 255 * torch.tensor(towers.std, device=towers.device)[:, None, None]
        mean = 255 * torch.tensor(towers.mean, device=towers.device)[:, None, None]
        self.register_buffer("pixel_scale", 1 / std, persistent=False)
        self.register_buffer("pixel_shift", mean / std, persistent=False)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit-norm image and text features [B, D]; 8-bit images are normalised here, on the device."""
        if images.dtype == torch.uint8:
            images = (images * self.pixel_scale).sub_(self.pixel_shift)
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
        self.guard = LossGuard(config)
        self._seed = seed
        self.encoders = Encoders(towers)
        self._parallel = lay_out(self.encoders, towers, config, world)
        self._learned = [p for p in self.encoders.parameters() if p.requires_grad]
        self.optimiser = build_optimiser(self.encoders, objective, config)
        self.average = (
            WeightAverage(towers.model, decay=config.ema_decay) if config.ema_decay else None
        )
        set_float32_products(config)
        self.in_bf16 = is_in_bf16(config, world.device)
        self._autocast = torch.autocast(
            world.device.type, dtype=torch.bfloat16, enabled=self.in_bf16
        )
        self.observers = _observers(objective, config, seed=seed, world=world)
        self.sample_statistics = (
            SampleStatistics(objective.num_samples, world) if config.sample_statistics else None
        )
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
        if self.config.on_bad_batch != "stop":  # else the rank that finds it ends the run for all
            sums = {
                "sum of the features": torch.stack([side.detach().sum() for side in features]).sum()
            }
            require_finite(sums, batch.sample_ids, step=self.step, world=self.world)
        result = self.objective(*features, batch.sample_ids)
        image_features, text_features = (side.detach() for side in features)
        if self.observers is not None:
            self.observers.observe(image_features, text_features, batch.sample_ids)
        return Forward(image_features, text_features, result, leaves)

    @torch.no_grad()
    def features_of(self, batch: Batch) -> Features:
        """Return a batch's features by the present weights, in evaluation mode and without gradient."""
        self.encoders.eval()
        features = self._encode(self.encoders, batch.images, batch.tokens)
        self.encoders.train()
        return features

    def update(self, batch: Batch, forward: Forward) -> tuple[Tensor, float]:
        """Update the weights; return the gradient norm before clipping and the learning rate.

        Raises: NumericsError: on every rank, if the loss or a gradient is not finite on one; the weights
            are as before then.
        """
        numbers = {"loss": forward.result.loss}
        self.optimiser.zero_grad(set_to_none=True)
        forward.result.loss.backward()  # with micro-batches as far as the features
        if self._cache and forward.leaves:
            numbers["gradient norm of the features"] = gradient_norm(forward.leaves)
            self._cache.backward(batch, forward.leaves)
        average_gradients(self.objective.parameters(), self.world)
        own = [p for p in self.objective.parameters() if p.grad is not None]
        if own:
            numbers["gradient norm of the objective's parameters"] = gradient_norm(own)
        norm = numbers["gradient norm"] = gradient_norm(self._learned)
        require_finite(numbers, batch.sample_ids, step=self.step, world=self.world)
        if self.config.grad_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._learned, self.config.grad_clip_norm, norm)
        rate = set_learning_rate(
            self.optimiser,
            self.objective,
            self.config,
            step=self.step,
            total_steps=self.total_steps,
        )
        self.optimiser.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        self.objective.advance(self.step)
        if self.sample_statistics is not None:
            self.sample_statistics.note(batch.sample_ids, forward.result, step=self.step)
        return norm, rate

    def model_state(self) -> dict[str, Tensor]:
        """Return the model's state_dict; every rank calls it, the main rank's tensors are whole."""
        return {name: whole_on_main(x) for name, x in self.towers.model.state_dict().items()}

    def load_model_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `model_state` returned, under any parallelism and at any number of ranks.

        Raises: RuntimeError: if it does not fit the architecture.
        """
        load_whole_(self.towers.model, state)

    @contextmanager
    def published_weights(self) -> Generator[None]:
        """Let the towers have, for a while, the weights that are evaluated and published: the averages, if any."""
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield

    def pass_over(self, *, until: int) -> None:
        """Count the batches of the steps before `until` as seen, without an update."""
        self.optimiser.zero_grad(set_to_none=True)
        while self.step < until:
            self.step += 1
            self.objective.advance(self.step)

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


def _observers(
    objective: Objective, config: TrainConfig, *, seed: int, world: World
) -> Observers | None:
    if config.probe is None or not config.probe.observers:
        return None
    if objective.learned_temperature is None:
        raise ConfigError(
            f"train.probe.observers share the run's temperature, and {config.objective.name} has one "
            "for every sample; leave the observers out or train with another objective"
        )
    return Observers(
        config.probe.observers,
        objective.learned_temperature,
        feature_dim=objective.feature_dim,
        num_samples=objective.num_samples,
        seed=seed,
        world=world,
    )
