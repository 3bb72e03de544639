"""Oracles: loops in float64, closed forms, and FastCLIP's own bound on the ratio."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives.test_neuclip import both_predicted, oracle, value_and_gradients
from oracles.contrastive import inner_functions, neuclip, rgcl_g
from oracles.toy import Toy, relative_error
from torch.nn.functional import normalize

from neuclip.objectives.registry import build

EPS, RHO, BATCH = 1e-6, 3.0, 12


def own_values(images, texts, tau):
    return [
        torch.log(EPS + inner_functions(*pair, tau)) for pair in ((images, texts), (texts, images))
    ]


def blended(alphas, own, gamma):
    """log((1 - gamma) exp(alpha) + gamma exp(l)), l constant."""
    return [
        torch.log((1 - gamma) * alpha.exp() + gamma * value.detach().exp())
        for alpha, value in zip(alphas, own, strict=True)
    ]


@pytest.mark.parametrize("mode", ["detached", "through"])
@pytest.mark.parametrize("gamma", [0.2, 0.7])
def test_mixed_with_the_batchs_own_value_equals_the_loops(
    make_neuclip, some_prototypes, mode, gamma
):
    toy = Toy()
    prototypes, ids = some_prototypes(toy)
    objective = make_neuclip(toy, prototypes, ids, alpha_mode=mode, gamma=gamma)

    def definition(images, texts, tau):
        alphas = both_predicted(toy, images, texts, prototypes, ids, tau)
        if mode == "detached":
            alphas = [alpha.detach() for alpha in alphas]
        mixed = blended(alphas, own_values(images, texts, tau), gamma)
        return neuclip(images, texts, tau, *mixed, EPS, RHO)

    result, found = value_and_gradients(toy, objective)
    loss, expected = oracle(toy, objective, definition)
    assert relative_error(result.loss, loss) < 1e-12
    assert relative_error(found, expected) < 1e-12
    plain = make_neuclip(toy, prototypes, ids, alpha_mode=mode)(*toy.features(), toy.ids)
    for own, alone in zip(result.log_normalizers, plain.log_normalizers, strict=True):
        assert torch.equal(own, alone), "what is told is the estimator's own"
    assert torch.equal(result.metrics["ratio_max"], plain.metrics["ratio_max"])


def test_almost_all_of_the_batchs_own_is_the_contrastive_loss_of_the_batch(
    make_neuclip, some_prototypes, toy
):
    objective = make_neuclip(toy, *some_prototypes(toy), gamma=1 - 1e-12)
    _, found = value_and_gradients(toy, objective)
    _, expected = oracle(toy, objective, lambda *a: rgcl_g(*a, EPS, RHO))
    assert relative_error(found, expected) < 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.01, 0.07]))
def test_no_anchor_weighs_more_than_one_over_gamma(seed, gamma, tau):
    draw = torch.Generator().manual_seed(seed)
    images, texts = normalize(torch.randn(2, BATCH, 6, generator=draw, dtype=torch.float64), dim=2)
    section = {
        "name": "neuclip",
        "temperature_init": tau,
        "learn_temperature": False,
        "gamma": gamma,
        "ratio_clamp": None,
        "estimator": {"name": "queue", "num_pairs": 2},
    }
    objective = build(section, feature_dim=6, num_samples=100).double()
    for step in range(2):
        leaves = [side.clone().requires_grad_() for side in (images, texts)]
        result = objective(*leaves, torch.arange(BATCH) + BATCH * step)
        objective.advance(step + 1)
    ratios = (
        torch.stack(own_values_at(images, texts, tau)) - torch.stack(result.log_normalizers)
    ).exp()
    weights = ratios / (1 - gamma + gamma * ratios)
    assert weights.max() <= 1 / gamma
    # The gradient with respect to a feature is at most what all weights can pull and push.
    for leaf in torch.autograd.grad(result.loss, leaves):
        assert leaf.norm(dim=1).max() <= 4 / gamma


def own_values_at(images, texts, tau):
    found = []
    for anchors, contrasts in ((images, texts), (texts, images)):
        margins = (anchors @ contrasts.T - (anchors * contrasts).sum(dim=1, keepdim=True)) / tau
        margins.fill_diagonal_(-torch.inf)
        found.append(torch.logsumexp(margins, dim=1) - math.log(BATCH - 1))
    return found


def test_gamma_follows_the_mean_square_of_the_log_ratio():
    section = {
        "name": "neuclip",
        "gamma": "auto",
        "estimator": {"name": "queue", "num_pairs": 24},
        "learn_temperature": False,
    }
    objective = build(section, feature_dim=6, num_samples=100).double()
    draw = torch.Generator().manual_seed(0)
    square, found = 1.0, []
    for step in range(5):
        images, texts = normalize(
            torch.randn(2, BATCH, 6, generator=draw, dtype=torch.float64), dim=2
        )
        result = objective(images, texts, torch.arange(BATCH) + BATCH * step)
        objective.advance(step + 1)
        found.append(float(result.metrics["gamma"]))
        assert found[-1] == pytest.approx(square / (1 + square), rel=1e-9)
        if step:  # in the first step the queue holds nothing
            difference = torch.stack(own_values_at(images, texts, 0.07)) - torch.stack(
                result.log_normalizers
            )
            square = 0.98 * square + 0.02 * float(difference.square().mean())
    assert found[0] == found[1] == 0.5
    assert len(set(found[1:])) == 4
    objective.eval()
    before = objective.squared_log_ratio.clone()
    objective(images, texts, torch.arange(BATCH))
    assert torch.equal(objective.squared_log_ratio, before)


@pytest.mark.parametrize("weight", [1, 2])
def test_the_exponential_term_counts_so_often_in_the_temperatures_gradient(
    make_neuclip, some_prototypes, toy, weight
):
    prototypes, ids = some_prototypes(toy)
    objective = make_neuclip(toy, prototypes, ids, tau_exp_weight=weight)

    def definition(images, texts, tau):
        alphas = both_predicted(toy, images, texts, prototypes, ids, tau)
        alphas = [alpha.detach() for alpha in alphas]
        once = neuclip(images, texts, tau, *alphas, EPS, RHO)
        terms = zip(own_values(images.detach(), texts.detach(), tau), alphas, strict=True)
        exponential = tau.detach() * sum((own - alpha).exp().mean() for own, alpha in terms)
        return once + (weight - 1) * exponential

    _, found = value_and_gradients(toy, objective)
    _, expected = oracle(toy, objective, definition)
    assert relative_error(found, expected) < 1e-12


def test_what_follows_from_the_batch(make_neuclip, some_prototypes, toy):
    objective = make_neuclip(toy, *some_prototypes(toy), rho="auto", ratio_clamp="auto")
    result = objective(*toy.features(), toy.ids)
    assert result.metrics["rho"] == pytest.approx(math.log(12) - 1)
    by_hand = make_neuclip(toy, *some_prototypes(toy), rho=math.log(12) - 1, ratio_clamp=999 / 11)
    assert torch.equal(by_hand(*toy.features(), toy.ids).loss, result.loss)
    small = make_neuclip(Toy(n=2), rho="auto")
    assert small(*Toy(n=2).features(), torch.arange(2)).metrics["rho"] == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.07, 0.5]))
def test_an_exact_normalizer_never_meets_the_automatic_limit(seed, tau):
    """Of n pairs, a batch of B has at most (n - 1) / (B - 1) times the mean over all."""
    count = 400
    draw = torch.Generator().manual_seed(seed)
    images, texts = normalize(torch.randn(2, count, 6, generator=draw, dtype=torch.float64), dim=2)
    section = {
        "name": "neuclip",
        "temperature_init": tau,
        "learn_temperature": False,
        "estimator": {"name": "network", "num_prototypes": count, "inner_steps": 0},
        "eps": 0.0,
    }
    objective = build(section, feature_dim=6, num_samples=count).double()
    objective.estimator.restart(torch.stack([texts, images]), torch.arange(count))
    objective.advance(1)
    chosen = torch.randperm(count, generator=draw)[:BATCH]
    result = objective(images[chosen], texts[chosen], chosen)
    assert result.metrics["ratio_clamped_share"] == 0
    assert result.metrics["ratio_max"] <= (count - 1) / (BATCH - 1) * (1 + 1e-9)


def test_the_temperatures_rate_is_a_share_of_the_encoders(toy, make_neuclip):
    [group] = make_neuclip(toy, temperature_lr_share=0.25).trainable()
    assert (group.lr, group.lr_factor) == (None, 0.25)
    [group] = make_neuclip(toy, temperature_lr_share=0.25, temperature_lr=1e-3).trainable()
    assert (group.lr, group.lr_factor) == (1e-3, 1.0)
    slow = make_neuclip(toy, temperature_lr_share=0.25, temperature_slow_below=0.5)
    assert float(slow.trainable()[0].lr_factor) == pytest.approx(0.25 / 3)
