"""Oracles: the schedule's formula by hand, torch's own AdamW, exact normalizers from loops."""

import math

import pytest
import torch
from training.runs import make_config

from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError
from neuclip.loading.samples import Batch
from neuclip.objectives.family import build
from neuclip.towers.model import create_towers
from neuclip.training.optimiser import load_optimiser_state, optimiser_state
from neuclip.training.run import launch_command
from neuclip.training.schedule import learning_rate
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


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.5 + 0.5 * 0.1), (110, 0.1)],
)
def test_warm_up_then_half_a_cosine(step, expected):
    rate = learning_rate(step, peak=1.0, least=0.1, warmup_steps=10, total_steps=110)
    assert rate == pytest.approx(expected)


def test_matrices_decay_and_the_temperature_does_not():
    trainer = make_trainer()
    decays = {}
    for group in trainer.optimiser.param_groups:
        for parameter in group["params"]:
            decays[id(parameter)] = group["weight_decay"]
    for parameter in trainer.encoders.parameters():
        if parameter.requires_grad:
            assert decays[id(parameter)] == (0.1 if parameter.ndim >= 2 else 0.0)
    (temperature,) = trainer.objective.trainable()[0].parameters
    assert decays[id(temperature)] == 0.0


def test_the_optimisers_moments_survive():
    first, second = make_trainer(), make_trainer()
    batch = make_batch(first)
    first.update(batch, first.forward(batch))
    load_optimiser_state(second.optimiser, optimiser_state(first.optimiser))
    one, two = first.optimiser.state_dict()["state"], second.optimiser.state_dict()["state"]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[n]["exp_avg_sq"], two[n]["exp_avg_sq"]) for n in one)


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


def test_one_rank_needs_no_launcher(tmp_path):
    assert "torch.distributed.run" not in launch_command(tmp_path / "job.json", 1)
    assert "--nproc-per-node=2" in launch_command(tmp_path / "job.json", 2)
