"""Oracles: the unified objective as loops in float64, and its identities."""

import itertools
import math

import pytest
import torch
from oracles.contrastive import log_loss, neuclip, predicted, rgcl_g
from oracles.toy import Toy, relative_error
from torch.nn.functional import normalize

EPS, RHO = 1e-6, 3.0
MODES = ["detached", "through"]


def value_and_gradients(toy, objective):
    """The result, and the loss's gradient with respect to both encoders and t."""
    result = objective(*toy.features(), toy.ids)
    t = objective.learned_temperature.log_scale
    return result, torch.autograd.grad(result.loss, [*toy.encoders, t])


def oracle(toy, objective, loss_of_tau):
    """The same of a definition, in float64."""
    exact = toy.double()
    t = objective.learned_temperature.log_scale.detach().double().requires_grad_()
    loss = loss_of_tau(*exact.features(), torch.exp(-t))
    return loss, torch.autograd.grad(loss, [*exact.encoders, t])


def both_predicted(toy, images, texts, prototypes, ids, tau, eps=EPS):
    return (
        predicted(images, texts, prototypes[0].double(), tau, eps, toy.ids, ids),
        predicted(texts, images, prototypes[1].double(), tau, eps, toy.ids, ids),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("mode", MODES)
def test_loss_and_gradients_equal_the_loops(make_neuclip, some_prototypes, mode, dtype, tolerance):
    toy = Toy(dtype=dtype)
    prototypes, ids = some_prototypes(toy)
    objective = make_neuclip(toy, prototypes, ids, alpha_mode=mode)

    def definition(images, texts, tau):
        alphas = both_predicted(toy, images, texts, prototypes, ids, tau)
        if mode == "detached":
            alphas = [alpha.detach() for alpha in alphas]
        return neuclip(images, texts, tau, *alphas, EPS, RHO)

    result, gradients = value_and_gradients(toy, objective)
    loss, expected = oracle(toy, objective, definition)
    assert relative_error(result.loss, loss) < tolerance
    assert relative_error(gradients, expected) < tolerance
    tau = objective.temperature.detach().double()
    alphas = both_predicted(toy, *toy.double().features(), prototypes, ids, tau)
    assert relative_error(result.log_normalizers, alphas) < tolerance
    assert not any(estimates.requires_grad for estimates in result.log_normalizers)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("mode", MODES)
def test_P10abc_exact_normalizers_give_the_global_contrastive_loss(
    make_neuclip, mode, dtype, tolerance
):
    toy = Toy(dtype=dtype)
    # The restart at step 0 takes the batch, which is the whole set here; own pairs are masked.
    objective = make_neuclip(toy, alpha_mode=mode, inner_steps=0, num_prototypes=12)
    result, gradients = value_and_gradients(toy, objective)
    loss, expected = oracle(toy, objective, lambda *a: rgcl_g(*a, EPS, RHO))
    assert relative_error(result.loss, loss) < tolerance
    assert relative_error(gradients, expected) < tolerance
    assert result.metrics["ratio_max"].item() == pytest.approx(1, abs=1e-4)


def test_P10d_the_bound_is_off_by_expm1_delta_minus_delta(make_neuclip, some_prototypes, toy):
    objective = make_neuclip(toy, *some_prototypes(toy))
    result = objective(*toy.features(), toy.ids)
    tau = objective.temperature.detach()
    images, texts = (features.detach() for features in toy.features())
    exact_objective = make_neuclip(toy, inner_steps=0, num_prototypes=12)
    exact = torch.stack(exact_objective(images, texts, toy.ids).log_normalizers)
    delta = exact - torch.stack(result.log_normalizers)
    gap = (torch.expm1(delta) - delta).mean()
    found = result.metrics["normalizer_loss"] - log_loss(images, texts, tau, EPS) / 2
    assert gap > 1e-3
    assert relative_error(found, gap) < 1e-11


def test_P13a_through_is_detached_plus_the_gradient_of_the_predictions(
    make_neuclip, some_prototypes, toy
):
    prototypes, ids = some_prototypes(toy)
    _, detached = value_and_gradients(toy, make_neuclip(toy, prototypes, ids))
    objective = make_neuclip(toy, prototypes, ids, alpha_mode="through")
    result, through = value_and_gradients(toy, objective)
    tau = objective.temperature.detach()
    exact = make_neuclip(toy, inner_steps=0, num_prototypes=12)(*toy.features(), toy.ids)

    def extra(images, texts, live_tau):
        alphas = both_predicted(toy, images, texts, prototypes, ids, live_tau)
        sides = zip(alphas, result.log_normalizers, exact.log_normalizers, strict=True)
        return sum((tau * (1 - (star - used).exp()) * alpha).mean() for alpha, used, star in sides)

    _, difference = oracle(toy, objective, extra)
    expected = [d + e for d, e in zip(detached, difference, strict=True)]
    assert relative_error(through, expected) < 1e-12
    assert relative_error(detached, expected) > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_P14_coefficient_of_the_own_cosine(make_neuclip, mode):
    # In a space wide enough to be independent, a gradient with respect to an image is a unique
    # sum of texts and prototypes; the weight of its own text is the coefficient of s_ii.
    generator = torch.Generator().manual_seed(3)
    toy = Toy(n=6, width=24)
    features = torch.randn(2, 6, 24, generator=generator, dtype=torch.float64)
    images, texts = normalize(features, dim=2).requires_grad_()
    prototypes = torch.randn(2, 8, 24, generator=generator, dtype=torch.float64)
    objective = make_neuclip(toy, prototypes, eps=0.0, alpha_mode=mode)
    exact = make_neuclip(toy, inner_steps=0, num_prototypes=6, eps=0.0)(images, texts, toy.ids)
    result = objective(images, texts, toy.ids)
    [gradient] = torch.autograd.grad(result.loss, [images])
    basis = torch.cat([texts.detach(), prototypes[0]])
    weights = torch.linalg.lstsq(basis.T, gradient.T).solution
    used, star = torch.stack(result.log_normalizers), torch.stack(exact.log_normalizers)
    ratios = (star - used).exp().sum(dim=0)
    expected = -ratios / 6 if mode == "detached" else torch.full((6,), -2 / 6, dtype=torch.float64)
    assert (ratios - 2).abs().min() > 1e-3
    assert relative_error(weights[:6].diagonal(), expected) < 1e-11


def test_P17_batches_average_to_the_whole_and_those_of_the_log_loss_do_not(
    make_neuclip, make_openclip, some_prototypes
):
    toy = Toy(n=7)
    images, texts = (features.detach().requires_grad_() for features in toy.features())
    ours = make_neuclip(toy, *some_prototypes(toy))
    log_based = make_openclip(toy)

    def gradients(objective, members):
        chosen = torch.tensor(members)
        result = objective(images[chosen], texts[chosen], toy.ids[chosen])
        t = objective.learned_temperature.log_scale
        return torch.autograd.grad(result.loss, [images, texts, t])

    def bias(objective):
        batches = list(itertools.combinations(range(7), 4))
        every = [gradients(objective, batch) for batch in batches]
        mean = [torch.stack(parts).mean(dim=0) for parts in zip(*every, strict=True)]
        return relative_error(mean, gradients(objective, range(7)))

    assert bias(ours) < 1e-12
    assert bias(log_based) > 1e-2


@pytest.mark.parametrize("definition", ["through", "exact"])
def test_P20_gradients_equal_central_differences(make_neuclip, some_prototypes, toy, definition):
    if definition == "through":
        objective = make_neuclip(toy, *some_prototypes(toy), alpha_mode="through")
    else:
        objective = make_neuclip(toy, inner_steps=0, num_prototypes=12)
    _, gradients = value_and_gradients(toy, objective)
    h = 1e-6
    for leaf, gradient in zip(
        [*toy.encoders, objective.learned_temperature.log_scale], gradients, strict=True
    ):
        step = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(2)).double()
        values = []
        for sign in (h, -h):
            leaf.data.add_(step, alpha=sign)
            values.append(objective(*toy.features(), toy.ids).loss.item())
            leaf.data.sub_(step, alpha=sign)
        slope = (values[0] - values[1]) / (2 * h)
        assert slope == pytest.approx((gradient * step).sum().item(), rel=1e-6)


def test_an_anchor_beyond_the_limit_is_counted_and_still_pulls(make_neuclip, some_prototypes, toy):
    prototypes, ids = some_prototypes(toy)
    free = make_neuclip(toy, prototypes, ids)(*toy.features(), toy.ids)
    limit = 1.3
    objective = make_neuclip(toy, prototypes, ids, ratio_clamp=limit)
    result, gradients = value_and_gradients(toy, objective)
    exact = make_neuclip(toy, inner_steps=0, num_prototypes=12)(*toy.features(), toy.ids)
    alphas = torch.stack(free.log_normalizers)
    star = torch.stack(exact.log_normalizers)
    limited = torch.maximum(alphas, star - math.log(limit))
    share = (limited > alphas).double().mean()
    assert 0 < share < 1
    assert result.metrics["ratio_clamped_share"] == share
    assert free.metrics["ratio_clamped_share"] == 0
    assert relative_error(torch.stack(result.log_normalizers), alphas) < 1e-12
    for name in ("ratio_mean", "ratio_max"):
        assert result.metrics[name] == free.metrics[name] > 0
    assert relative_error(result.metrics["ratio_max"], (star - alphas).exp().max()) < 1e-12
    loss, expected = oracle(toy, objective, lambda *a: neuclip(*a, *limited, EPS, RHO))
    assert relative_error(result.loss, loss) < 1e-12
    assert relative_error(gradients, expected) < 1e-12


def test_half_precision_features_are_computed_in_float32(make_neuclip, some_prototypes):
    toy = Toy(dtype=torch.float32)
    prototypes, ids = some_prototypes(toy)
    objective = make_neuclip(toy, prototypes, ids, inner_steps=2)
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    halves = [features.detach().bfloat16() for features in toy.features()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = objective(*halves, toy.ids)
    objective.load_state_dict(state)
    expected = objective(*(half.float() for half in halves), toy.ids)
    assert result.loss.dtype == torch.float32
    assert torch.equal(result.loss, expected.loss)
