"""An objective over all pairs of views. Oracles: its own loss of single pairs, and InfoNCE as loops."""

from itertools import product

import pytest
import torch
from objectives.term_cases import encoded_of, views
from oracles.contrastive import infonce

from neuclip.objectives.over_views import over_views
from neuclip.objectives.registry import build

PAIRS = [("main", "main"), ("main", "second"), ("second", "main"), ("second", "second")]
NETWORK = {"name": "network", "num_prototypes": 8, "inner_steps": 2, "restart_every": 3}
OBJECTIVES = {
    "openclip": {"name": "openclip"},
    "siglip": {"name": "siglip"},
    "sogclr": {"name": "sogclr"},
    "fastclip v3": {"name": "fastclip", "version": "v3"},
    "amorlip": {"name": "amorlip"},
    "neuclip": {"name": "neuclip", "estimator": NETWORK},
    "queue": {"name": "neuclip", "estimator": {"name": "queue", "num_pairs": 20}},
}


def made(name):
    torch.manual_seed(0)
    return build(OBJECTIVES[name], feature_dim=6, num_samples=100).double().train()


def test_infonce_over_all_pairs_is_the_mean_of_the_definition():
    images, texts = views(2, 2)
    objective = made("openclip")
    found = over_views(objective, encoded_of(images, texts), PAIRS).loss
    expected = [
        infonce(images[a].unit, texts[b].unit, objective.temperature.detach())
        for a, b in product(images, texts)
    ]
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_pair_is_the_objective_itself_to_the_bit(name):
    one, other = made(name), made(name)
    for step in range(3):
        encoded = encoded_of(*views(2, 2, seed=step))
        found = over_views(one, encoded, PAIRS[:1])
        expected = other(
            encoded.images["main"].unit, encoded.texts["main"].unit, encoded.sample_ids
        )
        assert found.loss == expected.loss
        assert one.training


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_equal_views_all_pairs_are_one(name):
    """State that was updated twice for a sample and step would show."""
    one, all_ = made(name), made(name)
    for step in range(4):
        sides = [{"main": s["main"], "second": s["main"]} for s in views(1, 1, seed=step)]
        encoded = encoded_of(*sides)
        expected, found = (
            over_views(*each) for each in ((one, encoded, PAIRS[:1]), (all_, encoded, PAIRS))
        )
        if name == "queue":  # which holds the batch itself by then
            assert torch.isfinite(found.loss)
        else:
            torch.testing.assert_close(found.loss, expected.loss, rtol=1e-14, atol=0)
        for own in (one, all_):
            own.advance(step + 1)
    states = [objective.whole_state() for objective in (one, all_)]
    flat = [{k: v for k, v in state.items() if isinstance(v, torch.Tensor)} for state in states]
    assert flat[0].keys() == flat[1].keys()
    assert all(torch.equal(flat[0][key], flat[1][key]) for key in flat[0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_state_learns_from_the_main_pair_alone(name):
    one, all_ = made(name), made(name)
    for step in range(4):
        encoded = encoded_of(*views(2, 2, seed=step))
        over_views(one, encoded, PAIRS[:1])
        over_views(all_, encoded, PAIRS)
    first, second = (
        {k: v for k, v in objective.whole_state().items() if isinstance(v, torch.Tensor)}
        for objective in (one, all_)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_loss_divided_by_its_scale_is_nats_per_anchor():
    """With the batch's own normalizer the gradient of every objective is a multiple of InfoNCE's."""
    images, texts = views(1, 1)
    encoded, scales = encoded_of(images, texts), {}
    for name in ("openclip", "fastclip v3", "neuclip", "sogclr"):
        objective = made(name)
        with torch.no_grad():
            objective.learned_temperature.log_scale.fill_(torch.tensor(0.5).log().neg())
        result = over_views(objective, encoded, PAIRS[:1])
        (gradient,) = torch.autograd.grad(result.loss / result.scale, images["main"].unit)
        scales[name] = gradient
    for name, gradient in scales.items():
        cosine = torch.cosine_similarity(gradient.flatten(), scales["openclip"].flatten(), dim=0)
        ratio = gradient.norm() / scales["openclip"].norm()
        assert cosine > 0.98, name
        assert 0.9 < ratio < 1.3, name
