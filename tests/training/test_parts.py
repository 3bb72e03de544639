"""Oracle: what a step must not change, and a loss that falls."""

import math

import pytest
import torch
from training.runs import make_config

from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError
from neuclip.loading.samples import Batch
from neuclip.objectives.registry import build
from neuclip.towers.model import create_towers
from neuclip.training.trainer import Trainer


def make_trainer(config=None):
    config = config or make_config()
    towers = create_towers(config.model, seed=0)
    objective = build(config.objective, feature_dim=towers.embed_dim, num_samples=64)
    return Trainer(towers, objective, config, seed=0, total_steps=50, world=World.single())


def make_batch(trainer, seed=0, size=16):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 16, 16, generator=draw)
    tokens = trainer.towers.tokenize([f"number {n}" for n in range(size)])
    return Batch(images, tokens, torch.arange(size), [])


def test_a_loss_that_is_not_finite_stops_before_the_update():
    trainer = make_trainer()
    batch = make_batch(trainer)
    before = [parameter.clone() for parameter in trainer.encoders.parameters()]
    batch.images[3] = math.nan
    with pytest.raises(
        NumericsError, match=r"features of 1 .* not finite at step 0 on rank 0: sample ids \[3\]"
    ):
        trainer.update(batch, trainer.forward(batch))
    assert all(
        torch.equal(a, b) for a, b in zip(before, trainer.encoders.parameters(), strict=True)
    )


def test_training_learns_the_pairs():
    trainer = make_trainer(make_config(lr=0.01, objective={"name": "openclip"}))
    batch = make_batch(trainer)
    losses = []
    for _ in range(40):
        forward = trainer.forward(batch)
        losses.append(forward.result.loss.item())
        trainer.update(batch, forward)
    assert losses[-1] < 0.3 * losses[0]
