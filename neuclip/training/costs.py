"""What an update costs: multiply-adds by the model's own count, and seconds by a short measurement on this device."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import normalize

from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.index.reader import SampleTable
from neuclip.launching.config import LaunchConfig
from neuclip.loading.batch import Batch
from neuclip.loading.batches import load_batches
from neuclip.tokens.patch_grid import patches_a_side
from neuclip.towers.model import create_towers
from neuclip.training.config import TrainConfig
from neuclip.training.encoders import Encoders
from neuclip.training.example_batch import example_batch
from neuclip.training.job import TrainJob
from neuclip.training.meter import available_bytes, forward_flops
from neuclip.training.parts import make_parts, make_trainer
from neuclip.training.phases import Phase
from neuclip.training.requested import RequestedSamples
from neuclip.training.tokens import sized
from neuclip.training.trainer import Trainer
from neuclip.training.worker import threads_of_a_rank

_META = torch.device("meta")
_FIRST_PAIRS = 4
_LEAST_UPDATES = 3
_BYTES_A_WEIGHT = 16
"""A float32 weight, its gradient and AdamW's two moments."""
_MOST_SAMPLES = 1_000_000
"""Numbers that an objective keeps for each sample cost memory, and no time."""


@dataclass(frozen=True)
class ForwardCost:
    """What a forward pass of one pair through both towers takes, in all views that a recipe's losses read.

    Args:
        image_tokens: that the blocks of the image tower read; None where it is no plain ViT.
        text_tokens: of a context.
        multiply_adds: by torch's own count of the products that are really made.
        weights: numbers that both towers learn.
    """

    image_tokens: int | None
    text_tokens: int
    multiply_adds: int
    weights: int


@dataclass(frozen=True)
class Speed:
    """What one device does.

    Args:
        update_s: seconds of an update of a rank's share.
        pairs: that the measured updates had.
        is_whole: whether that is the rank's share; else the seconds are extended to it in proportion.
        is_loaded: whether the pairs were read from the shards by the recipe's loading processes meanwhile.
    """

    update_s: float
    pairs: int
    is_whole: bool
    is_loaded: bool


def forward_cost(config: TrainConfig) -> ForwardCost:
    """Count what one pair takes in a phase, without memory for the weights."""
    with torch.device(_META):
        towers = create_towers(
            config.model, seed=0, device=_META, change=partial(sized, config=config)
        )
        encoders = Encoders(towers)
    with torch.device("cpu"):
        batch = example_batch(config, towers, pairs=1)
    patches = [kept.shape[1] for kept in batch.patches.values()]
    side = patches_a_side(towers.architecture["vision_cfg"])
    texts = next(iter(batch.texts.values()))
    return ForwardCost(
        image_tokens=patches[0] if patches else side and side * side,
        text_tokens=1 if texts.is_floating_point() else texts.shape[1],  # a feature is one
        multiply_adds=forward_flops(encoders, batch.to(_META).inputs()) // 2,
        weights=sum(weight.numel() for weight in encoders.parameters()),
    )


def measure(
    job: TrainJob, phase: Phase, table: SampleTable | None, *, seconds: float, world: World
) -> Speed:
    """Do updates of a phase on this device for some seconds; what they learn is thrown away.

    A rank's share that takes too long for that is measured by two smaller ones.

    Args:
        table: of the training samples; None measures with noise, without loading.
    Raises: ConfigError: if the towers do not fit into this device's memory.
    """
    _require_room(phase.config, world)
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of_a_rank(phase.config))
    try:
        return _measure(job, phase, table, seconds=seconds, world=world)
    finally:
        torch.set_num_threads(before)


def _measure(
    job: TrainJob, phase: Phase, table: SampleTable | None, *, seconds: float, world: World
) -> Speed:
    whole = phase.config.global_batch // phase.config.launch.world_size
    pairs, times = min(_FIRST_PAIRS, whole), list[tuple[int, float]]()
    while True:
        times.append(
            (pairs, _seconds_an_update(_with_noise(job, phase, pairs, world), _LEAST_UPDATES))
        )
        if pairs == whole or times[-1][1] * 2 * _LEAST_UPDATES > seconds:
            break
        pairs = min(2 * pairs, whole)
    if pairs == whole:
        updates = _with_noise if table is None else partial(_with_data, table=table)
        with closing(updates(job, phase, pairs, world)) as running:
            update_s = _seconds_an_update(running, _LEAST_UPDATES, at_least_s=seconds)
        return Speed(update_s, pairs, is_whole=True, is_loaded=table is not None)
    (fewer, before), (pairs, update_s) = times[-2:] if len(times) > 1 else (times[0], times[0])
    slope = (update_s - before) / (pairs - fewer) if pairs > fewer else update_s / pairs
    extended = update_s + max(slope, 0.0) * (whole - pairs)
    return Speed(extended, pairs, is_whole=False, is_loaded=False)


def _require_room(config: TrainConfig, world: World) -> None:
    needed = forward_cost(config).weights * _BYTES_A_WEIGHT
    free = available_bytes(world.device)
    if needed > free:
        raise ConfigError(
            f"the towers with gradients and moments need {needed / 1e9:.3g} GB, and this device has "
            f"{free / 1e9:.3g} GB free; plan on the device that trains, or give the speed: --tflops"
        )


def _on_one_rank(phase: Phase, pairs: int) -> Phase:
    """Return a phase in which one rank does a share of pairs."""
    config = phase.config
    micro = config.micro_batch if config.micro_batch and pairs % config.micro_batch == 0 else None
    changes = {
        "global_batch": pairs,
        "streams": 1,
        "micro_batch": micro,
        "launch": LaunchConfig(),
    }
    flat = config.model_copy(update=changes)
    return Phase(phase.number, flat, phase.first, phase.last, phase.samples_before)


def _with_noise(
    job: TrainJob, phase: Phase, pairs: int, world: World
) -> Generator[Callable[[], None]]:
    """Yield updates with a batch of noise."""
    phase = _on_one_rank(phase, pairs)
    trainer = make_trainer(job, world, phase, num_samples=_MOST_SAMPLES)
    batch = example_batch(phase.config, trainer.towers, pairs=pairs).to(world.device)
    while True:
        yield partial(_update_with_noise, trainer, batch)


def _update_with_noise(trainer: Trainer, batch: Batch) -> None:
    objective = trainer.objective
    wanted = objective.wanted()
    if wanted is not None:
        noise = torch.randn(
            2, wanted.num_pairs, objective.feature_dim, device=batch.sample_ids.device
        )
        ids = torch.arange(wanted.num_pairs, device=noise.device)
        images, texts = normalize(noise, dim=2)
        objective.take(images, texts, ids)
    trainer.update(batch)


def _with_data(
    job: TrainJob, phase: Phase, pairs: int, world: World, *, table: SampleTable
) -> Generator[Callable[[], None]]:
    """Yield updates with batches that the recipe's loading processes read."""
    phase = _on_one_rank(phase, pairs)
    parts = make_parts(job, world, phase, table)
    requested = RequestedSamples(parts.trainer, parts.samples, job.index_uri)
    batches = load_batches(
        parts.samples,
        parts.order,
        first=phase.first,
        last=phase.first + 10**9,
        rank=0,
        size=1,
        workers=phase.config.loader.workers,
        pin_memory=world.device.type == "cuda",
    )
    with closing(batches):
        while True:
            yield partial(_update_with_data, parts.trainer, requested, batches, world)


def _update_with_data(
    trainer: Trainer, requested: RequestedSamples, batches: Iterator[Batch], world: World
) -> None:
    batch = next(batches).to(world.device)
    requested.serve()
    trainer.update(batch)


def _seconds_an_update(
    updates: Iterator[Callable[[], None]], least: int, *, at_least_s: float = 0.0
) -> float:
    """Return the mean time of updates after the first, which sets up what later ones use."""
    next(updates)()
    _wait_for_device()
    start, count = time.perf_counter(), 0
    while count < least or time.perf_counter() - start < at_least_s:
        next(updates)()
        count += 1
    _wait_for_device()
    return (time.perf_counter() - start) / count


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
