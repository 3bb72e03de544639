"""What a recipe's training will cost, and what else the same hours would buy: other models, fewer tokens."""

import os
import tempfile
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.index.reader import read_samples
from neuclip.journey import identify
from neuclip.recipe import Recipe
from neuclip.stages.manifest import is_committed
from neuclip.stages.workspace import StageIdentity
from neuclip.tokens.config import ResizeConfig, TruncateConfig
from neuclip.tokens.patch_grid import patch_px
from neuclip.towers.config import ModelConfig
from neuclip.training.config import TrainConfig
from neuclip.training.costs import ForwardCost, Speed, forward_cost, measure
from neuclip.training.job import TrainJob
from neuclip.training.phases import Phase, plan_phases
from neuclip.training.tokens import sized

MODELS = ("ViT-S-16", "ViT-B-32", "ViT-B-16", "ViT-L-16", "ViT-L-14", "ViT-H-14")
"""Architectures that are held against the recipe's own."""
_FORWARD_AND_BACKWARD = 3  # a backward pass takes two products for each of the forward pass
_SIDES = (1.0, 0.5, 0.4)
"""Shares of the image's side: of 224 pixels 112, and 96 or 84 by patches of 16 or 14, as CLIPA has them."""
_TEXTS = (77, 16, 8)


class PhaseBudget(BaseModel):
    """What one phase takes."""

    model_config = ConfigDict(frozen=True)

    phase: int
    image_px: int
    image_tokens: int | None
    """That the blocks read, the class token left out; None where the tower is no plain ViT."""
    text_tokens: int
    steps: int
    samples: int
    """Seen, with repeats."""
    multiply_adds_a_step: int
    """Of all ranks, forward and backward."""
    multiply_adds: int
    samples_per_s: float
    """Of all devices together."""
    update_s: float
    hours: float
    device_hours: float
    price: float | None
    measured: str
    """How the speed is known."""


class Alternative(BaseModel):
    """A model at a number of tokens in the same hours, if it reaches the recipe's multiply-adds per second."""

    model_config = ConfigDict(frozen=True)

    model: str
    image_px: int
    image_tokens: int | None
    text_tokens: int
    multiply_adds_a_pair: int
    """Forward."""
    samples_per_s: float
    samples: int
    """That the same hours are enough for."""
    passes: float
    """Over the training samples."""
    share: float
    """Of the samples that the recipe asks for."""


class Budget(BaseModel):
    """The whole answer."""

    model_config = ConfigDict(frozen=True)

    device: str
    devices: int
    training_samples: int
    phases: list[PhaseBudget]
    hours: float
    device_hours: float
    price: float | None
    affordable_share: float | None
    """Of the run, that `train.telemetry.budget` is enough for; None without a budget."""
    alternatives: list[Alternative]


def plan_budget(
    recipe: Recipe, *, samples: int | None, seconds: float, tflops: float | None
) -> Budget:
    """Work out what the training of a recipe takes.

    Args:
        samples: training samples; None takes them from the index, which has to be there.
        seconds: that the measurement of a phase takes on this device, about.
        tflops: what a device achieves, 1e12 FLOP/s; None measures it here.
    Raises: ConfigError: if the number of samples is not known, or the model does not fit here.
    """
    config, identities = recipe.train, identify(recipe)
    job = TrainJob(
        config=config,
        seed=recipe.seed,
        train_key=identities["train"].key,
        index_uri=identities["index"].uri,
        shard_uri=identities["shard"].uri,
        text_encoder_uri=_committed(identities, "text_encoder"),
        run_uri=tempfile.gettempdir(),
    )
    table = read_samples(job.index_uri) if is_committed(job.index_uri) else None
    count = samples or (table.count if table else None)
    if count is None:
        raise ConfigError(
            "how long training takes depends on the number of training samples, and this recipe has no index yet; "
            "give it: --samples N"
        )
    world, devices = World.from_environment(), config.launch.world_size
    price, budget = config.telemetry.price_per_hour, config.telemetry.budget
    phases: list[PhaseBudget] = []
    for phase in plan_phases(config, count):
        cost = forward_cost(phase.config)
        if tflops is None:
            speed = measure(job, phase, table, seconds=seconds, world=world)
            update_s, how = speed.update_s, _described(speed)
        else:
            update_s = 2 * _products(phase, cost) / devices / (tflops * 1e12)
            how = f"from {tflops:g} TFLOP/s a device, as asked"
        phases.append(_phase_budget(phase, cost, update_s, how))
    hours = sum(phase.hours for phase in phases)
    whole = None if price is None else hours * devices * price
    return Budget(
        device=_device_name(world) if tflops is None else f"{tflops:g} TFLOP/s",
        devices=devices,
        training_samples=count,
        phases=phases,
        hours=hours,
        device_hours=hours * devices,
        price=whole,
        affordable_share=budget / whole if budget and whole else None,
        alternatives=_alternatives(config, phases, count),
    )


def _products(phase: Phase, cost: ForwardCost) -> int:
    """Return the multiply-adds of a step of all ranks."""
    return _FORWARD_AND_BACKWARD * cost.multiply_adds * phase.config.global_batch


def _phase_budget(phase: Phase, cost: ForwardCost, update_s: float, measured: str) -> PhaseBudget:
    config, products = phase.config, _products(phase, cost)
    steps, devices = phase.last - phase.first, config.launch.world_size
    hours, price = steps * update_s / 3600, config.telemetry.price_per_hour
    return PhaseBudget(
        phase=phase.number,
        image_px=_image_px(config),
        image_tokens=cost.image_tokens,
        text_tokens=cost.text_tokens,
        steps=steps,
        samples=steps * config.global_batch,
        multiply_adds_a_step=products,
        multiply_adds=steps * products,
        samples_per_s=config.global_batch / update_s,
        update_s=update_s,
        hours=hours,
        device_hours=hours * devices,
        price=None if price is None else hours * devices * price,
        measured=measured,
    )


def _alternatives(
    config: TrainConfig, phases: Sequence[PhaseBudget], count: int
) -> list[Alternative]:
    """Return models at numbers of tokens, cheapest first within a model."""
    hours = sum(phase.hours for phase in phases)
    if not hours:
        return []
    per_s = sum(phase.multiply_adds for phase in phases) / (hours * 3600)
    asked = sum(phase.samples for phase in phases)
    own = config.model.name or "this recipe's"
    found: list[Alternative] = []
    models = {own: config.model, **{name: ModelConfig(name=name) for name in MODELS}}
    for name, model in models.items():
        for flat in _fewer_tokens(config, model):
            cost = forward_cost(flat)
            speed = per_s / (_FORWARD_AND_BACKWARD * cost.multiply_adds)
            samples = int(speed * hours * 3600)
            found.append(
                Alternative(
                    model=name,
                    image_px=_image_px(flat),
                    image_tokens=cost.image_tokens,
                    text_tokens=cost.text_tokens,
                    multiply_adds_a_pair=cost.multiply_adds,
                    samples_per_s=speed,
                    samples=samples,
                    passes=samples / count,
                    share=samples / asked,
                )
            )
    return found


def _committed(identities: Mapping[str, StageIdentity], stage: str) -> str | None:
    """Return the folder of a stage that a recipe may have, if it has it and it is done."""
    identity = identities.get(stage)
    return identity.uri if identity is not None and is_committed(identity.uri) else None


def _fewer_tokens(config: TrainConfig, model: ModelConfig) -> list[TrainConfig]:
    """Return the settings of a model at all of its tokens and at fewer, without policies."""
    architecture = model.model_cfg()
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    size, patch = vision.get("image_size", 224), patch_px(vision)
    length = text.get("context_length", 77)
    reads_features = model.text is not None and model.text.reads_features
    found: dict[tuple[int, int], TrainConfig] = {}
    for share, most in zip(_SIDES, _TEXTS, strict=True):
        px = size if patch is None else max(1, round(size * share / patch)) * patch
        tokens = min(length, most) if share < 1 else length
        found[px, tokens] = config.model_copy(
            update={
                "model": model,
                "phases": [],
                "image_px": px,
                "context_length": None if reads_features else tokens,
                "image_tokens": ResizeConfig(),
                "text_tokens": TruncateConfig(),
                "learn_positions": False,
            }
        )
    return list(found.values())


def _image_px(config: TrainConfig) -> int:
    size = sized(config.model.model_cfg(), config)["vision_cfg"].get("image_size", 224)
    return size if isinstance(size, int) else int(size[0])


def _described(speed: Speed) -> str:
    kind = "the data" if speed.is_loaded else "noise, without loading"
    if speed.is_whole:
        return f"updates of {speed.pairs} pairs of {kind}"
    return f"extended from updates of {speed.pairs} pairs of {kind}"


def _device_name(world: World) -> str:
    import torch

    if world.device.type == "cuda":
        return torch.cuda.get_device_name(world.device)
    return f"CPU with {os.cpu_count()} cores"
