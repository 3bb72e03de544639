"""Prototypes that restart from the sample index. Oracle: the schedule by hand, and what was handed over."""

import pytest
import torch
from objectives.rank_cases import serve
from pydantic import ValidationError
from torch.nn.functional import normalize

from neuclip.objectives.config import NetworkConfig
from neuclip.objectives.registry import KNOWN, build

WIDTH = 6


def make(seed=0, **network):
    network = {
        "name": "network",
        "num_prototypes": 10,
        "restart_every": 3,
        "inner_steps": 0,
    } | network
    section = {"name": "neuclip", "estimator": {"source": "index"} | network}
    return build(section, feature_dim=WIDTH, num_samples=1000, seed=seed)


def batch(step, size=4):
    draw = torch.Generator().manual_seed(step)
    images, texts = normalize(torch.randn(2, size, WIDTH, generator=draw), dim=2)
    return images, texts, torch.arange(size) + 10 * step


def pairs(seed, count=10):
    draw = torch.Generator().manual_seed(seed)
    images, texts = normalize(torch.randn(2, count, WIDTH, generator=draw), dim=2)
    return images, texts, torch.arange(count) + 500


def test_it_asks_at_each_restart_for_other_pairs():
    asked = {}
    for seed in (0, 0, 1):
        objective = make(seed, index_strategy="kmeans++")
        for step in range(7):
            wanted = objective.wanted()
            assert wanted == objective.wanted()  # asking changes nothing
            assert (wanted is None) == (step not in (0, 3, 6))
            if wanted is not None:
                assert wanted[:2] == (10, "kmeans++")
                asked.setdefault(step, []).append(wanted.seed)
                objective.take(*pairs(step))
            objective(*batch(step))
            objective.advance(step + 1)
    for first, again, other in asked.values():
        assert first == again != other
    assert len({seeds[0] for seeds in asked.values()}) == 3


def test_a_restart_takes_the_pairs_and_a_step_without_one_leaves_them():
    objective = make()
    for step in range(6):
        if objective.wanted() is not None:
            images, texts, ids = pairs(step)
            objective.take(images, texts, ids)
        objective(*batch(step))
        objective.advance(step + 1)
        network = objective.estimator
        assert network.num_in_use == 10
        torch.testing.assert_close(network.prototypes_SMD, torch.stack([texts, images]))
        assert torch.equal(network.prototype_ids_M, ids)


@pytest.mark.parametrize("step", [0, 3])
def test_a_restart_without_its_pairs_is_no_training_without_prototypes(step):
    objective = make()
    for before in range(step):
        if objective.wanted() is not None:
            objective.take(*pairs(before))
        objective(*batch(before))
        objective.advance(before + 1)
    with pytest.raises(RuntimeError, match="restart from the sample index at this step"):
        objective(*batch(step))


def test_bfloat16_features_are_normalised_in_float32():
    objective = make()
    images, texts, ids = pairs(0)
    objective.take(images.bfloat16(), texts.bfloat16(), ids)
    objective(*batch(0))
    lengths = objective.estimator.prototypes_SMD.norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones(2, 10), atol=1e-6, rtol=0)


def test_an_offset_hands_on():
    objective = make(offset_decay=0.9)
    assert objective.wanted().num_pairs == 10
    objective.take(*pairs(0))
    objective(*batch(0))
    assert objective.estimator.inner.num_in_use == 10


def test_nobody_else_asks():
    others = [{"name": name} for name in KNOWN]
    others += [
        {"name": "neuclip", "estimator": {"name": "network", "source": "batch"}},
        {"name": "neuclip", "estimator": {"name": "queue"}},
        {"name": "neuclip", "estimator": {"name": "aged_queue"}},
    ]
    for section in others:
        objective = build(section, feature_dim=WIDTH, num_samples=1000)
        assert objective.wanted() is None
        with pytest.raises(NotImplementedError):
            objective.take(*pairs(0))


def test_the_ring_of_recent_pairs_is_not_kept():
    with_ring, without = (make(source=source).state_dict() for source in ("recent", "index"))
    assert without.keys() < with_ring.keys()
    assert all("source." in name for name in with_ring.keys() - without.keys())


@pytest.mark.parametrize("saved_at", [1, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(saved_at):
    def steps(objective, numbers):
        for step in numbers:
            serve(objective)
            objective(*batch(step))
            objective.advance(step + 1)

    whole, first, second = (make(inner_steps=2, inner_lr=0.02) for _ in range(3))
    steps(whole, range(7))
    steps(first, range(saved_at))
    second.load_whole_state(first.whole_state())
    steps(second, range(saved_at, 7))
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_a_strategy_without_the_index_is_refused():
    with pytest.raises(ValidationError, match="stratified needs source index, found recent"):
        NetworkConfig(index_strategy="stratified")
    with pytest.raises(ValidationError, match="'uniform', 'stratified' or 'kmeans\\+\\+'"):
        NetworkConfig(source="index", index_strategy="random")
    same = NetworkConfig(source="index", index_strategy="kmeans++")
    assert NetworkConfig.model_validate_json(same.model_dump_json()) == same
    assert NetworkConfig.model_validate_json(NetworkConfig().model_dump_json()) == NetworkConfig()
