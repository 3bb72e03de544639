"""Oracle: -log softmax as loops over the batch, for every objective that takes one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.toy import Toy

from neuclip.objectives.margins import add_eps, without_eps
from neuclip.objectives.registry import build

SECTIONS = {
    "openclip": {"name": "openclip"},
    "sogclr": {"name": "sogclr", "eps": 1e-3},
    "isogclr": {"name": "isogclr", "temperature_init": 0.07},
    "fastclip": {"name": "fastclip", "eps": 1e-3},
    "amorlip": {"name": "amorlip", "own_pair_weight": 0.3},
    "neuclip": {"name": "neuclip", "eps": 1e-3},
    "neuclip without eps": {"name": "neuclip", "eps": 0},
    "neuclip, queue": {"name": "neuclip", "estimator": {"name": "queue"}},
}


def losses_by_loops(images, texts, ids, tau):
    """Of each pair, both sides summed; a pair of the same sample elsewhere in the batch is left out."""
    found = []
    for i in range(len(ids)):
        total = 0.0
        for anchors, contrasts in ((images, texts), (texts, images)):
            others = [j for j in range(len(ids)) if j == i or ids[j] != ids[i]]
            terms = [torch.exp(anchors[i] @ contrasts[j] / tau) for j in others]
            total = total - torch.log(torch.exp(anchors[i] @ contrasts[i] / tau) / sum(terms))
        found.append(total)
    return torch.stack(found)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_each_pair_s_loss_is_that_of_the_softmax_over_the_batch(name):
    toy = Toy()
    ids = torch.arange(12)
    ids[5] = 3
    section = {"temperature": 0.07} if name == "sogclr" else {}
    objective = build(SECTIONS[name] | section, feature_dim=6, num_samples=40).double()
    images, texts = (features.detach() for features in toy.features())
    for step in range(2):  # the second with whatever state the first has left
        result = objective(images, texts, ids)
        objective.advance(step + 1)
        tau = result.metrics["temperature"]
        if name != "isogclr" or step == 0:  # afterwards each has its own temperature
            expected = losses_by_loops(images, texts, ids, tau)
            torch.testing.assert_close(result.pair_losses, expected, rtol=1e-9, atol=1e-12)
        assert not result.pair_losses.requires_grad


def test_there_is_none_without_a_softmax():
    images, texts = (features.detach() for features in Toy().features())
    objective = build({"name": "siglip"}, feature_dim=6, num_samples=40)
    assert objective(images, texts, torch.arange(12)).pair_losses is None


@given(st.floats(-30, 200), st.sampled_from([0.0, 1e-14, 1e-6, 1e-2]))
def test_eps_is_taken_out_again(value, eps):
    values = torch.tensor([value], dtype=torch.float64)
    back = without_eps(add_eps(values, eps), eps)
    assert back.exp().item() == pytest.approx(values.exp().item(), rel=1e-9, abs=1e-15)


def test_nothing_but_eps_is_nothing():
    values = torch.tensor([1e-14, 1e-15]).log()
    assert without_eps(values, 1e-14).tolist() == [-torch.inf, -torch.inf]
    assert torch.isfinite(without_eps(torch.tensor([200.0]), 1e-14)).all()
