"""Oracle: the same objective trained alone, and a run without observers."""

import pytest
import torch
from oracles.toy import Toy

from neuclip.distributed.world import World
from neuclip.foundation.errors import CheckpointError, ConfigError
from neuclip.objectives.observers import Observers
from neuclip.objectives.registry import build

SECTIONS = {
    "averages": {"name": "fastclip", "version": "v1", "gamma_decay_epochs": 1},
    "queue": {"name": "neuclip", "estimator": {"name": "queue", "num_pairs": 30}},
}


def make(objective, sections=None):
    return Observers(
        SECTIONS if sections is None else sections,
        objective.learned_temperature,
        feature_dim=6,
        num_samples=24,
        seed=0,
        world=World.single(),
    )


def train(steps, *, with_observers):
    toy = Toy(dtype=torch.float32)
    objective = build({"name": "openclip"}, feature_dim=6, num_samples=24)
    observers = make(objective, None if with_observers else {})
    optimizer = torch.optim.SGD([*toy.encoders, *objective.parameters()], lr=0.05)
    for step in range(steps):
        images, texts = toy.features()
        ids = torch.arange(12) + 12 * (step % 2)
        loss = objective(images, texts, ids).loss
        observers.observe(images.detach(), texts.detach(), ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.advance(step + 1)
    return toy, objective, observers


def test_observers_leave_the_run_as_it_is_and_follow_its_temperature():
    alone, lonely, none = train(6, with_observers=False)
    watched, objective, observers = train(6, with_observers=True)
    assert all(torch.equal(a, b) for a, b in zip(alone.encoders, watched.encoders, strict=True))
    assert lonely.temperature == objective.temperature != 0.07
    for observer in observers.objectives.values():
        assert observer.temperature == objective.temperature
    features = [f.detach() for f in watched.features()]
    assert none.predict(*features, torch.arange(12)) == {}
    assert set(observers.predict(*features, torch.arange(12))) == {"averages", "queue"}


def test_a_observer_says_what_the_objective_itself_would():
    toy = Toy(dtype=torch.float32)
    features = [f.detach() for f in toy.features()]
    runner = build({"name": "openclip", "learn_temperature": False}, feature_dim=6, num_samples=24)
    observers = make(runner)
    twins = {n: build(s, feature_dim=6, num_samples=24) for n, s in SECTIONS.items()}
    for step in range(5):
        ids = torch.arange(12) + 12 * (step % 2)
        moved = [side.roll(step, dims=1) for side in features]
        observers.observe(*moved, ids)
        for twin in twins.values():
            twin(*moved, ids)
            twin.advance(step + 1)
    found = observers.predict(*features, torch.arange(12))
    for name, twin in twins.items():
        expected = twin.predict(*features, torch.arange(12))
        assert torch.equal(torch.stack(found[name]), torch.stack(expected)), name


def test_observers_travel_with_the_checkpoint():
    toy, objective, observers = train(4, with_observers=True)
    features = [f.detach() for f in toy.features()]
    twin = make(objective)
    twin.load_whole_state(observers.whole_state())
    expected = observers.predict(*features, torch.arange(12))
    for name, sides in twin.predict(*features, torch.arange(12)).items():
        assert torch.equal(torch.stack(sides), torch.stack(expected[name]))
    with pytest.raises(CheckpointError, match="does not fit a FastClip of 24 samples"):
        make(objective).load_whole_state({})


def test_a_observer_with_temperatures_of_its_own_is_refused():
    objective = build({"name": "openclip"}, feature_dim=6, num_samples=24)
    with pytest.raises(ConfigError, match="'own' has a temperature for every sample"):
        make(objective, {"own": {"name": "isogclr"}})
