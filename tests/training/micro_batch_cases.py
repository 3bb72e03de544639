"""A trainer on a tiny CLIP in float64, and steps with it; with one rank they run in the test's own process."""

import torch
from training.runs import ARCHITECTURE, make_config

from neuclip.distributed.world import World
from neuclip.loading.batch import Batch
from neuclip.objectives.registry import build
from neuclip.objectives.terms.term import About
from neuclip.objectives.terms.weighted import WeightedTerms
from neuclip.towers.model import create_towers
from neuclip.training.phases import Phase
from neuclip.training.trainer import Trainer

# The default sizes of the others are small enough.
NEUCLIP = make_config().objective.model_dump()
SMALL = {
    "neuclip": NEUCLIP,
    "neuclip, mixed": {**NEUCLIP, "gamma": 0.5, "tau_exp_weight": 2},
    "neuclip, adapted": {**NEUCLIP, "gamma": "auto", "alpha_mode": "through"},
}


def make_trainer(
    name="openclip",
    *,
    global_batch,
    micro_batch=None,
    world=None,
    vision=None,
    seed=7,
    precision="fp32",
    dtype=torch.float64,
    **changes,
):
    world = world or World.single()
    vision = vision or ARCHITECTURE["vision_cfg"]
    config = make_config(
        model={"architecture": {**ARCHITECTURE, "vision_cfg": vision}},
        objective={"name": name, **SMALL.get(name, {})},
        global_batch=global_batch,
        micro_batch=micro_batch,
        launch={"processes": world.size},
        precision=precision,
        **{"grad_clip": None, "probe": None, **changes},
    )
    return trainer_of(config, world=world, seed=seed, dtype=dtype)


def trainer_of(config, *, num_samples=1000, world=None, seed=0, dtype=torch.float32):
    """A trainer of a run of one phase of 50 updates."""
    world = world or World.single()
    towers = create_towers(config.model, seed=0)
    towers.model.to(dtype)
    about = {"feature_dim": towers.embed_dim, "num_samples": num_samples, "seed": 0, "world": world}
    objective = build(config.objective, **about).to(dtype)
    terms = WeightedTerms(
        config.terms,
        objective_weight=config.share_of_objective,
        about=About(**about, views=config.known_views, vocabulary=towers.text.vocabulary),
    )
    phase = Phase(0, config, 0, 50, 0)
    return Trainer(towers, objective, terms.to(dtype), phase, seed=seed, world=world)


def make_batch(trainer, step=0):
    """A rank's share of a global batch; a step shares half of its pairs with the one before."""
    size, world = trainer.config.global_batch, trainer.world
    ids = (step * size // 2 + torch.arange(size)).chunk(world.size)[world.rank]
    px, dtype = trainer.towers.image_px, trainer.towers.model.positional_embedding.dtype
    images = [
        torch.randn(3, px, px, generator=torch.Generator().manual_seed(number))
        for number in ids.tolist()
    ]
    tokens = trainer.towers.tokenize([f"number {number}" for number in ids.tolist()])
    return Batch.of_pairs(torch.stack(images).to(dtype), tokens, ids)


def update(trainer, batch):
    """Do an update; return what it gave, and what the batch gave before it."""
    seen = []
    return trainer.update(batch, lambda *given: seen.extend(given)), *seen


def train(name, num_steps, sizes):
    """Take steps; return the last gradients by name, the parameters after it and the objective's state."""
    world = World.from_environment()
    trainer = make_trainer(name, world=world, **sizes)
    for step in range(num_steps):
        batch = make_batch(trainer, step)
        trainer.update(batch)
    world.close()
    updated = {id(p) for group in trainer.optimiser.param_groups for p in group["params"]}
    named = [*trainer.encoders.named_parameters(), *trainer.objective.named_parameters()]
    learned = {key: parameter for key, parameter in named if id(parameter) in updated}
    return {
        "gradients": {key: parameter.grad for key, parameter in learned.items()},
        "parameters": {key: parameter.detach() for key, parameter in learned.items()},
        "state": trainer.objective.state_dict(),
    }
