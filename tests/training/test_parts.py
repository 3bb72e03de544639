"""Oracle: what a step must not change, and a loss that falls."""

import math

import pytest
import torch
from training.micro_batch_cases import trainer_of
from training.runs import make_config

from neuclip.foundation.errors import NumericsError
from neuclip.loading.batch import Batch
from neuclip.loading.visits import MAIN


def make_batch(trainer, seed=0, size=16):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 16, 16, generator=draw)
    tokens = trainer.towers.tokenize([f"number {n}" for n in range(size)])
    return Batch.of_pairs(images, tokens, torch.arange(size))


def test_a_loss_that_is_not_finite_stops_before_the_update():
    trainer = trainer_of(make_config(), num_samples=64)
    batch = make_batch(trainer)
    before = [parameter.clone() for parameter in trainer.encoders.parameters()]
    batch.images[MAIN][3] = math.nan
    with pytest.raises(
        NumericsError, match=r"features of 1 .* not finite at step 0 on rank 0: sample ids \[3\]"
    ):
        trainer.update(batch)
    assert all(
        torch.equal(a, b) for a, b in zip(before, trainer.encoders.parameters(), strict=True)
    )


def test_training_learns_the_pairs():
    trainer = trainer_of(make_config(lr=0.01, objective={"name": "openclip"}), num_samples=64)
    batch = make_batch(trainer)
    losses = [trainer.update(batch).loss.item() for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]
