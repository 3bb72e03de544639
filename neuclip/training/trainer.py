"""One update, readable in one place: encode, losses, backward, judge, clip, step."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from neuclip.distributed.collectives import all_reduce_mean_, average_gradients
from neuclip.distributed.sharding import load_whole_, whole, whole_on_main
from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.loading.batch import Batch, Inputs
from neuclip.loading.shown import Shown
from neuclip.loading.visits import MAIN
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.loss_part import TrainableGroup
from neuclip.objectives.objective import Objective, ObjectiveResult
from neuclip.objectives.observers import Observers
from neuclip.objectives.over_views import over_views
from neuclip.objectives.terms.weighted import WeightedTerms
from neuclip.towers.towers import Towers
from neuclip.training.average import WeightAverage
from neuclip.training.clipping import GradientClip
from neuclip.training.config import TrainConfig
from neuclip.training.encoders import Encoders
from neuclip.training.feature_cache import FeatureCache, Sides, tensors_of
from neuclip.training.freezing import freeze
from neuclip.training.guard import LossGuard, Verdict
from neuclip.training.layout import is_in_bf16, lay_out, set_float32_products
from neuclip.training.optimiser import build_optimiser, hold_back, set_learning_rate
from neuclip.training.phases import Phase
from neuclip.training.sample_statistics import SampleStatistics
from neuclip.training.shown_texts import ShownTexts

_SEED_FACTOR = 1_000_003

Look = Callable[[Encoded, ObjectiveResult], None]


@dataclass(frozen=True)
class Update:
    """What one update gave: numbers on the device, to be read when they are wanted.

    Args:
        loss: mean over ranks.
        norm: of the encoders' gradient before clipping.
        lr: learning rate of the encoders.
        metrics: statistics of the local batch.
    """

    loss: Tensor
    norm: Tensor
    lr: float
    metrics: dict[str, float | Tensor]


@dataclass(frozen=True)
class _Open:
    """An update whose verdict has not been read: what is left to do if its batch was good."""

    verdict: Verdict
    sample_ids: Tensor
    result: ObjectiveResult
    shown: dict[str, Shown]


class Trainer:
    """Encoders, losses and optimiser of a phase, and the number of updates they have seen."""

    def __init__(
        self,
        towers: Towers,
        objective: Objective,
        terms: WeightedTerms,
        phase: Phase,
        *,
        seed: int,
        world: World,
    ) -> None:
        config = phase.config
        self.towers, self.objective, self.terms = towers, objective, terms
        self.phase, self.config, self.world, self._seed = phase, config, world, seed
        self.step = phase.first
        self.corrupt: set[int] = set()  # sample ids that did not decode so far
        self.positions: list[str] = []  # what was done to tables of positions on the way here
        self.texts = ShownTexts(world)
        self.guard = LossGuard(config, world)
        self.clip = GradientClip(config.grad_clip, world.device)
        still = freeze(towers.model, config.freeze)
        self.encoders = Encoders(towers, terms.states, still=still)
        self._parallel = lay_out(self.encoders, towers, config, world)
        self._learned = [p for p in self.encoders.parameters() if p.requires_grad]
        self._parts = (objective, terms)
        self.optimiser = build_optimiser(self.encoders, self.trainable(), config)
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
        self._open: _Open | None = None

    @property
    def samples_seen(self) -> int:
        """Image-text pairs consumed so far by all ranks."""
        return self.phase.samples_seen(self.step)

    def trainable(self) -> list[TrainableGroup]:
        """Return what the optimiser updates beside the encoders, with the rates of the next update."""
        return [group for part in self._parts for group in part.trainable()]

    def update(self, batch: Batch, look: Look | None = None) -> Update:
        """Do one update with a batch; every rank calls it.

        A bad batch (a loss, feature or gradient that is not finite on some rank, or a spike) never moves a weight.
        Features that are not finite are known at once; the rest is known when `settle` reads it, a step later.

        Args:
            look: is given what the batch gave, before any weight changes.
        Raises: NumericsError: on every rank, for this batch or, by `settle`, for the one before.
        """
        self.settle()
        for part in (self._parallel, *self._parts):
            part.train()
        leaves = self._cache.fill(batch) if self._cache else None
        sides = leaves or self._encode(self._parallel, batch.inputs())
        encoded = Encoded(*sides, batch.sample_ids, batch.text_ids, batch.masked)
        images, texts = encoded.images[MAIN].unit, encoded.texts[MAIN].unit
        if self.config.on_bad_batch != "stop":  # else the rank that finds it ends the run for all
            self._require_finite(sides, batch)

        result = over_views(self.objective, encoded, self.config.objective_pairs)
        result = self.terms.add_to(result, encoded, self.objective.temperature)
        if self.observers is not None:
            self.observers.observe(images.detach(), texts.detach(), batch.sample_ids)
        loss = all_reduce_mean_(result.loss.detach().float().clone(), self.world)
        if look is not None:
            look(encoded, result)

        numbers = {"loss": result.loss}
        self.optimiser.zero_grad(set_to_none=True)
        result.loss.backward()  # with micro-batches as far as the features
        if self._cache and leaves:
            numbers["gradient norm of the features"] = gradient_norm(tensors_of(leaves))
            self._cache.backward(batch, leaves)
        own = [p for part in self._parts for p in part.parameters()]
        average_gradients(own, self.world)
        if any(p.grad is not None for p in own):
            numbers["gradient norm of the objective's parameters"] = gradient_norm(own)
        norm = numbers["gradient norm"] = gradient_norm(self._learned)

        is_bad, verdict = self.guard.judge(numbers, loss, batch.cpu_ids, step=self.step)
        is_clipped = self.clip.apply(self._learned, norm, is_bad=is_bad)
        rate = set_learning_rate(self.optimiser, self.trainable(), self.phase, step=self.step)
        if not hold_back(self.optimiser, is_bad):
            self.guard.require_good(verdict)
        if not self.objective.is_warming:  # else its estimator alone has learnt from this batch
            self.optimiser.step()

        self.step += 1
        for part in self._parts:
            part.advance(self.step)
        result = replace(result, loss=result.loss.detach())  # so that its graph goes
        self._open = _Open(verdict, batch.sample_ids, result, batch.shown)
        return Update(loss, norm, rate, {**result.metrics, "clipped": is_clipped})

    def settle(self) -> None:
        """Close the update before: read whether its batch was good; every rank calls it.

        Raises: NumericsError: on every rank, if it was not; the weights are as before that update then.
        """
        if self._open is None:
            return
        done, self._open = self._open, None
        self.guard.require_good(done.verdict)
        self.texts.note(done.shown)
        step = done.verdict.step + 1
        if self.average is not None:
            self.average.update(step)
        if self.sample_statistics is not None:
            self.sample_statistics.note(done.sample_ids, done.result, step=step)

    @torch.no_grad()
    def features_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return a batch's unit-norm features by the present weights, in evaluation mode and without gradient.

        They are of the tokens that training sees.
        """
        self.encoders.eval()
        images, texts = self._encode(self.encoders, batch.inputs(view=MAIN))
        self.encoders.train()
        return images[MAIN].unit, texts[MAIN].unit

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
        """Let the towers have, for a while, the weights that are evaluated and published: the averages, if any.

        Raises: NumericsError: as `settle`.
        """
        self.settle()
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield

    def pass_over(self, *, until: int) -> None:
        """Count the batches of the steps before `until` as seen, without an update."""
        self.optimiser.zero_grad(set_to_none=True)
        self._open = None
        while self.step < until:
            self.step += 1
            for part in self._parts:
                part.advance(self.step)

    def start_phase(self) -> None:
        """Tell all losses that features are others than before from here on."""
        for part in self._parts:
            part.start_phase()
        if self.observers is not None:
            for objective in self.observers.objectives.values():
                objective.start_phase()

    def _require_finite(self, sides: Sides, batch: Batch) -> None:
        sums = torch.stack([feature.detach().sum() for feature in tensors_of(sides)]).sum()
        _, verdict = self.guard.judge(
            {"sum of the features": sums}, None, batch.cpu_ids, step=self.step
        )
        self.guard.require_good(verdict)

    def _encode(
        self,
        encoders: Callable[..., Sides],
        inputs: Inputs,
        micro: int = 0,
    ) -> Sides:
        """Return features. Random numbers inside (dropout) depend on step, rank and micro-batch alone."""
        draws = 0
        for number in (micro, self._seed, self.step, self.world.rank):
            draws = draws * _SEED_FACTOR + number
        torch.manual_seed(draws % 2**64)
        with self._autocast:
            return encoders(*inputs)


def gradient_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients that are there, of whole tensors where they are shared out."""
    return whole(nn.utils.get_total_norm([x.grad for x in tensors if x.grad is not None]))


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
