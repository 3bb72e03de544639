"""Oracles: torch's own batch norm, loops, one rank."""

from pathlib import Path

import pytest
import torch
from objectives.term_cases import norm_on_ranks
from oracles.rank_pool import shared_pool
from oracles.supervision import norm_of_batch

from neuclip.distributed.world import World
from neuclip.objectives.terms.heads import GlobalBatchNorm, mlp, new_weights

CASES = Path(__file__).with_name("term_cases.py")


def rows(count=9, width=4):
    return torch.randn(
        count, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


def test_the_norm_is_torchs_and_the_definition():
    own, theirs = GlobalBatchNorm(4, world=World.single()).double(), torch.nn.BatchNorm1d(4)
    theirs.double()
    x, y = rows().requires_grad_(), rows().requires_grad_()
    found, expected = own(x), theirs(y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, norm_of_batch(rows()), rtol=1e-12, atol=1e-14)
    for result in (found, expected):
        result.square().mul(torch.arange(4.0)).cos().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-9, atol=1e-12)


def test_a_batch_of_copies_is_normed_to_zeros():
    own = GlobalBatchNorm(3, world=World.single())
    assert torch.equal(own(torch.ones(5, 3)), torch.zeros(5, 3))


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_its_statistics_are_those_of_all_ranks(ranks):
    whole = norm_on_ranks()
    answers = shared_pool().run(ranks, CASES, "norm_on_ranks")
    for name in ("normed", "gradient"):
        joined = torch.cat([answer[name] for answer in answers])
        torch.testing.assert_close(joined, whole[name], rtol=1e-9, atol=1e-12)
    for answer in answers:
        torch.testing.assert_close(answer["weight"], whole["weight"], rtol=1e-9, atol=1e-12)


def test_new_weights_follow_from_seed_and_name_and_leave_the_random_state():
    def built(seed, name):
        return new_weights(
            lambda: mlp([3, 5, 2], world=World.single(), norm_last=True), seed=seed, name=name
        )

    before = torch.get_rng_state()
    first = built(1, "siam")
    assert torch.equal(before, torch.get_rng_state())
    same, *others = built(1, "siam"), built(2, "siam"), built(1, "other")
    assert torch.equal(first[0].weight, same[0].weight)
    assert all(not torch.equal(first[0].weight, other[0].weight) for other in others)
    assert [type(layer).__name__ for layer in first] == [
        "Linear",
        "GlobalBatchNorm",
        "ReLU",
        "Linear",
        "GlobalBatchNorm",
    ]
