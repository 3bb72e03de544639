"""Oracles: SogCLR, iSogCLR and FastCLIP as loops in float64, and their identities."""

import math

import pytest
import torch
from objectives.fixed import make, oracle, value_and_gradients
from oracles import moving_average as loops
from oracles.contrastive import inner_functions, log_loss, rgcl_g
from oracles.toy import Toy, relative_error

EPS, RHO = 1e-6, 3.0
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5)]
COMMON = {"name": "fastclip", "eps": EPS, "rho": RHO, "gamma_decay_epochs": 2}


def averaged(toy, config, steps=3):
    """An objective after some steps with other features, in an epoch with gamma below 1, and u.

    An epoch has two steps, so that the step to come is the second of the second epoch.
    """
    objective = make(toy, config, num_samples=24)
    generator = torch.Generator().manual_seed(1)
    u = torch.zeros(2, 12, dtype=torch.float64)
    seen = Toy(dtype=toy.raw_images.dtype)
    for step in range(steps):
        seen.raw_images = torch.randn(12, 5, generator=generator).to(toy.raw_images.dtype)
        images, texts = (features.detach() for features in seen.features())
        rate = objective.gamma(step // 2)
        tau = objective.temperature.detach().double()
        objective(images, texts, torch.arange(12))
        images, texts = images.double(), texts.double()
        if config.get("version") != "v2" and config["name"] != "isogclr":
            for side, pair in enumerate(((images, texts), (texts, images))):
                u[side] = loops.update(u[side], inner_functions(*pair, tau), rate)
        objective.advance(step + 1)
    return objective, u


def updated(toy, u, tau, rate):
    images, texts = (features.detach().double() for features in toy.features())
    g = inner_functions(images, texts, tau), inner_functions(texts, images, tau)
    return [loops.update(old, fresh, rate) for old, fresh in zip(u, g, strict=True)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("weight", [1, 2])
@pytest.mark.parametrize("version", ["v0", "v1", "v3", "sogclr"])
def test_loss_gradients_and_averages_equal_the_loops(version, weight, dtype, tolerance):
    toy = Toy(dtype=dtype)
    config = COMMON | {"version": version, "tau_exp_weight": weight}
    if version == "sogclr":
        config = {"name": "sogclr", "eps": EPS, "gamma": 0.6}
    objective, u = averaged(toy, config)
    rate = objective.gamma(1)
    assert rate < 1
    tau = objective.temperature.detach().double()
    u1, u2 = updated(toy, u, tau, rate)

    def definition(images, texts, live_tau):
        if version == "v3":
            return loops.v3_surrogate(images, texts, u1, u2, live_tau, EPS, RHO, weight)
        surrogate = loops.v0_surrogate if version == "v0" else loops.v1_surrogate
        return surrogate(images, texts, u1, u2, live_tau, EPS)

    result, gradients = value_and_gradients(toy, objective, torch.arange(12))
    _, expected = oracle(toy, objective, definition)
    assert relative_error(gradients, expected) < tolerance
    for found, average in zip(result.log_normalizers, (u1, u2), strict=True):
        assert relative_error(found, torch.log(EPS + average)) < tolerance
    predicted = objective.predict(*(f.detach() for f in toy.features()), torch.arange(12))
    assert relative_error(list(predicted), [torch.log(EPS + a) for a in (u1, u2)]) < 1e-6
    if version == "v3":
        exact = toy.double()
        closed = loops.v3_temperature_gradient(*exact.features(), u1, u2, tau, EPS, RHO, weight)
        assert relative_error(-gradients[2], closed * tau) < 10 * tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_P03_P04a_in_the_first_epoch_the_gradient_is_that_of_the_batch(dtype, tolerance):
    toy = Toy(dtype=dtype)
    objective = make(toy, COMMON | {"version": "v0"})
    _, gradients = value_and_gradients(toy, objective)
    _, expected = oracle(toy, objective, lambda *a: log_loss(*a, EPS))
    assert relative_error(gradients, expected) < tolerance
    objective = make(toy, COMMON)
    _, gradients = value_and_gradients(toy, objective)
    _, expected = oracle(toy, objective, lambda *a: rgcl_g(*a, EPS, RHO))
    assert relative_error(gradients, expected) < tolerance


def test_P05_gradient_to_similarities_in_closed_form(toy):
    objective, u = averaged(toy, COMMON)
    tau = objective.temperature.detach()
    u1, u2 = updated(toy, u, tau, objective.gamma(1))
    images, texts = (features.detach() for features in toy.features())
    leaves = images.clone().requires_grad_(), texts.clone().requires_grad_()
    result = objective(*leaves, torch.arange(12))
    found = torch.autograd.grad(result.loss, leaves)
    weights = loops.similarity_weights(images, texts, u1, u2, tau, EPS)
    assert relative_error(list(found), [weights @ texts, weights.T @ images]) < 1e-11


@pytest.mark.parametrize("name", ["v2", "isogclr"])
def test_P06_individual_temperatures(toy, name):
    is_fastclip = name == "v2"
    config = (
        COMMON | {"version": "v2", "individual_temperature_init": 0.3}
        if is_fastclip
        else {"name": name, "eps": EPS, "rho": RHO, "temperature_init": 0.3, "gamma": 0.8}
    )
    objective = make(toy, config, num_samples=12)
    ids = torch.arange(12)
    taus = [torch.full((12,), 0.3).double() for _ in range(2)]
    u = [torch.zeros(12).double() for _ in range(2)]
    moments = [(torch.zeros(12).double(), torch.zeros(12).double()) for _ in range(2)]
    for step in range(4):
        rate = objective.gamma(step)
        images, texts = (features.detach() for features in toy.features())
        _, gradients = value_and_gradients(toy, objective, ids)
        pairs = (images, texts), (texts, images)
        for side, pair in enumerate(pairs):
            g = loops.individual_inner_functions(*pair, taus[side])
            u[side] = loops.update(u[side], g, rate)
        surrogate = loops.v2_surrogate(*toy.features(), *u, *taus, EPS)
        expected = torch.autograd.grad(surrogate, toy.encoders)
        assert relative_error(gradients, expected) < 1e-6  # temperatures are stored in float32
        for side, pair in enumerate(pairs):
            slope = loops.individual_temperature_gradient(*pair, u[side], taus[side], EPS, RHO)
            m, v = moments[side]
            if is_fastclip:
                betas = (0.9, 0.999)
                taus[side], m, v = loops.individual_adam_step(
                    taus[side], m, v, slope, step, lr=0.0133, betas=betas
                )
            else:
                taus[side], m = loops.isogclr_step(taus[side], m, slope, lr=0.03)
            moments[side] = m, v
        objective.advance(step + 1)
        assert relative_error(objective.individual.read(ids), torch.stack(taus)) < 1e-5
        assert objective.temperature == pytest.approx(float(torch.stack(taus).mean()), rel=1e-5)
        toy.raw_images = toy.raw_images.roll(1, dims=0)
    assert torch.stack(taus).std() > 1e-4


def test_P22_an_anchor_never_weighs_more_than_one_over_gamma():
    toy = Toy()
    objective, _ = averaged(toy, COMMON | {"version": "v1", "gamma_min": 0.25})
    for shift in range(5):
        result = objective(*toy.features(), torch.arange(12))
        assert result.metrics["ratio_max"] <= 1 / result.metrics["gamma"]
        objective.advance(20 + shift)
        toy.raw_texts = toy.raw_texts.roll(1, dims=0)
    assert result.metrics["ratio_max"] > 1.5


@pytest.mark.parametrize(
    ("gamma_min", "decay", "values"),
    [(0.2, 18, {0: 1, 1: 0.993923, 9: 0.6, 17: 0.206077, 18: 0.2, 40: 0.2}), (0.8, 10, {5: 0.9})],
)
def test_gamma_falls_along_published_values(toy, gamma_min, decay, values):
    objective = make(toy, COMMON | {"gamma_min": gamma_min, "gamma_decay_epochs": decay})
    for epoch, value in values.items():
        assert objective.gamma(epoch) == pytest.approx(value, abs=5e-7)
    assert make(toy, {"name": "sogclr", "gamma": 0.6}).gamma(0) == 1
    assert make(toy, {"name": "sogclr", "gamma": 0.6}).gamma(1) == 0.6


def test_averages_at_the_lowest_temperature_stay_finite_where_exp_overflows():
    toy = Toy(dtype=torch.float32)
    toy.raw_texts = -toy.raw_texts  # own pairs are the farthest
    objective = make(toy, COMMON | {"temperature_init": 0.01, "version": "v1"}, num_samples=12)
    for step in range(3):
        result, gradients = value_and_gradients(toy, objective, torch.arange(12))
        objective.advance(step + 1)
        assert result.log_normalizers[0].max() > math.log(torch.finfo(torch.float32).max)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_new_stage_begins_with_the_batch_again(toy):
    objective, _ = averaged(toy, COMMON)
    assert objective(*toy.features(), torch.arange(12)).metrics["gamma"] < 1
    objective.start_phase()
    assert objective(*toy.features(), torch.arange(12)).metrics["gamma"] == 1
    twin = make(toy, COMMON, num_samples=24)
    twin.load_whole_state(objective.whole_state())
    assert twin.phase_start == objective.phase_start == 3


def test_samples_never_seen_have_no_estimate(toy):
    objective = make(toy, COMMON, num_samples=20)
    objective(*toy.features(), torch.arange(12))
    features = [f.detach() for f in toy.features()]
    image_side, text_side = objective.predict(*features, torch.arange(8, 20))
    assert torch.isnan(image_side).tolist() == [False] * 4 + [True] * 8
    assert torch.equal(torch.isnan(image_side), torch.isnan(text_side))
