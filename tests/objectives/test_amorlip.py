"""Oracles: AmorLIP's networks, targets and loss as loops in float64; InfoNCE; torch's Adam."""

import math

import pytest
import torch
from objectives.fixed import make, oracle, value_and_gradients
from oracles import amorlip as loops
from oracles.contrastive import infonce
from oracles.toy import Toy, relative_error

PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5)]
BASE = {
    "name": "amorlip",
    "ratio_clamp": None,
    "rho": 2.0,
    "late_rho": -1.0,
    "late_rho_from_epoch": 1,
}


def weights_of(network):
    """The parameters in the oracle's order."""
    return [parameter.detach().double().clone() for parameter in network.parameters()]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_P21_exact_sums_give_twice_the_gradient_of_infonce(dtype, tolerance):
    toy = Toy(dtype=dtype)
    config = BASE | {"encoder_normalizer": "target", "own_pair_weight": 1.0}
    objective = make(toy, config)
    _, gradients = value_and_gradients(toy, objective)
    tau = objective.temperature.detach().double()
    _, expected = oracle(toy, objective, lambda *a: 2 * tau * infonce(*a) + 2.0 * a[2])
    assert relative_error(gradients, expected) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_loss_and_gradients_equal_the_loops(dtype, tolerance):
    toy = Toy(dtype=dtype)
    objective = make(toy, BASE)
    before = [weights_of(network) for network in objective.networks.average]
    result, gradients = value_and_gradients(toy, objective)
    exact = toy.double()
    images, texts = (features.detach() for features in exact.features())
    # The average has not moved: it does so at every second update.
    log_lambdas = [
        loops.log_lambda(side, weights)
        for side, weights in zip((images, texts), before, strict=True)
    ]

    def definition(images, texts, tau):
        return loops.scaled_encoder_loss(images, texts, 1 / tau, *log_lambdas, 1e-3, 2.0)

    loss, expected = oracle(toy, objective, definition)
    assert relative_error(result.loss, loss) < tolerance
    assert relative_error(gradients, expected) < tolerance
    tau = objective.temperature.detach().double()
    own = (images * texts).sum(dim=1) / tau
    for found, log_lambda in zip(result.log_normalizers, log_lambdas, strict=True):
        assert (found - (log_lambda - own - math.log(12))).abs().max() < 10 * tolerance


def test_networks_are_fitted_by_adam_to_the_batch_s_sums(toy):
    """Oracle: torch's Adam on the loops' regression loss."""
    objective = make(toy, BASE | {"inner_steps": 3})
    networks = objective.networks
    leaves = [[w.clone().requires_grad_() for w in weights_of(n)] for n in networks.fitted]
    optimizer = torch.optim.Adam([w for side in leaves for w in side], lr=1e-3)
    images, texts = (features.detach() for features in toy.features())
    scale = 1 / objective.temperature.detach()
    targets = [
        loops.log_target(images, texts, scale, 1e-3),
        loops.log_target(texts, images, scale, 1e-3),
    ]
    for _ in range(3):
        optimizer.zero_grad()
        sides = zip((images, texts), leaves, targets, strict=True)
        sum(loops.log_l2(loops.log_lambda(f, w), t) for f, w, t in sides).backward()
        optimizer.step()
    objective(images, texts, toy.ids)
    for network, expected in zip(networks.fitted, leaves, strict=True):
        found = weights_of(network)
        assert relative_error(found, [w.detach() for w in expected]) < 1e-8
    assert all(parameter.grad is None for parameter in objective.networks.parameters())


def test_targets_are_smoothed_over_epochs_and_networks_start_anew(toy):
    objective = make(toy, BASE | {"smoothing_epochs": 4, "encoder_normalizer": "target"}, 12)
    for step in range(3):
        fitted = weights_of(objective.networks.fitted[0])
        average = [weights_of(network) for network in objective.networks.average]
        result = objective(*(f.detach() for f in toy.features()), torch.arange(12))
        objective.advance(step + 1)
        assert result.metrics["rho"] == (2.0 if step == 0 else -1.0)
    images, texts = (features.detach() for features in toy.features())
    tau = objective.temperature.detach()
    beta = loops.smoothing(2, beta_max=0.8, ramp_epochs=4)
    target = loops.smoothed_log_target(
        loops.log_target(images, texts, 1 / tau, 1e-3),
        loops.log_lambda(images, average[0]),
        beta,
    )
    own = (images * texts).sum(dim=1) / tau
    assert relative_error(result.log_normalizers[0], target - own - math.log(12)) < 1e-10
    # What was fitted in the epoch before is gone: a fresh network is nearer to another fresh one.
    now = weights_of(objective.networks.fitted[0])
    assert relative_error(now, fitted) > 0.1


def test_the_average_moves_at_every_second_update(toy):
    objective = make(toy, BASE)
    start = weights_of(objective.networks.average[0])
    features = [f.detach() for f in toy.features()]
    objective(*features, toy.ids)
    assert relative_error(weights_of(objective.networks.average[0]), start) == 0
    objective(*features, toy.ids)
    fitted = weights_of(objective.networks.fitted[0])
    moved = [0.92 * old + 0.08 * new for old, new in zip(start, fitted, strict=True)]
    assert relative_error(weights_of(objective.networks.average[0]), moved) < 1e-12
