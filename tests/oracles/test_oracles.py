"""The oracles among themselves and against cases worked out by hand; none of the package."""

import itertools
import math

import pytest
import torch
from oracles.amorlip import (
    encoder_loss,
    log_l2,
    log_lambda,
    log_target,
    scaled_encoder_loss,
    smoothed_log_target,
    smoothing,
)
from oracles.contrastive import (
    fastclip_v0_surrogate,
    infonce,
    inner_functions,
    log_loss,
    neuclip,
    rgcl_g,
)
from oracles.estimators import (
    age_blocks,
    age_weighted_values,
    block_sums,
    block_weight_gradient,
    exact_normalizers,
    pushed,
    queue_values,
    rms_step,
    two_roles,
    updated_offset,
)
from oracles.moving_average import (
    constant_gamma,
    gamma,
    individual_adam_step,
    individual_inner_functions,
    individual_temperature_gradient,
    isogclr_step,
    log_update,
    mirror_descent_step,
    rgcl,
    scent_gamma,
    similarity_weights,
    update,
    v0_surrogate,
    v1_surrogate,
    v2_surrogate,
    v3_surrogate,
    v3_temperature_gradient,
)
from oracles.siglip import siglip, siglip_of_rank, softplus
from oracles.toy import Toy, relative_error

EPS, RHO = 1e-6, 3.0
TIGHT = 1e-12


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def leaf(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def tau():
    return leaf(0.07)


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def averages():
    """A u per sample and side with nothing to do with g."""
    generator = torch.Generator().manual_seed(3)
    return torch.exp(2 * torch.randn(2, 12, generator=generator, dtype=torch.float64))


def gradients(toy, loss, *others):
    """Of the loss, with respect to both encoders and others."""
    return torch.autograd.grad(loss, [*toy.encoders, *others], retain_graph=True)


def own_averages(images, texts, tau):
    """u = g, what gamma = 1 gives."""
    return [inner_functions(*sides, tau).detach() for sides in ((images, texts), (texts, images))]


def test_P02_openclip_is_half_the_contrastive_loss_with_eps_one_over_others(toy, tau):
    """Softmax with the own pair in it, against the self-excluded mean with eps = 1 / (B - 1)."""
    features, eps = toy.features(), 1 / 11
    value = infonce(*features, tau)
    assert relative_error(value, math.log(11) + log_loss(*features, tau, eps) / 2) < TIGHT
    surrogate = v0_surrogate(*features, *own_averages(*features, tau), tau, eps) / 2
    found = gradients(toy, value, tau)
    assert relative_error(found, gradients(toy, surrogate, tau)) < TIGHT


def test_P03_v0_and_v1_with_gamma_1_descend_the_contrastive_loss(toy, tau):
    """A ratio with a constant denominator, against the logarithm it stands for."""
    features = toy.features()
    averages = own_averages(*features, tau)
    expected = gradients(toy, log_loss(*features, tau, EPS), tau)
    found = gradients(toy, v0_surrogate(*features, *averages, tau, EPS), tau)
    assert relative_error(found, expected) < TIGHT
    found = gradients(toy, fastclip_v0_surrogate(*features, tau, EPS), tau)
    assert relative_error(found, expected) < TIGHT
    v1 = v1_surrogate(*features, *averages, tau, EPS)
    assert relative_error(gradients(toy, v1), expected[:2]) < TIGHT


def test_P04a_v3_with_gamma_1_descends_the_global_loss(toy, tau):
    """Two terms that share the temperature's gradient, against one loss."""
    features = toy.features()
    averages = own_averages(*features, tau)
    found = gradients(toy, v3_surrogate(*features, *averages, tau, EPS, RHO), tau)
    expected = gradients(toy, rgcl_g(*features, tau, EPS, RHO), tau)
    assert relative_error(found, expected) < TIGHT


def test_P04b_the_temperature_moves_until_the_divergences_are_rho(toy, tau):
    """The derivative to tau, against 2 rho - mean(KL1 + KL2) from the softmax's own definition."""
    images, texts = toy.features()
    (found,) = torch.autograd.grad(rgcl_g(images, texts, tau, 0.0, RHO), tau)
    divergences = 0.0
    for anchors, contrasts in ((images, texts), (texts, images)):
        for i in range(12):
            others = [anchors[i] @ contrasts[j] / tau for j in range(12) if j != i]
            shares = torch.stack(others).softmax(dim=0)
            divergences = divergences + sum(p * torch.log(11 * p) for p in shares) / 12
    assert relative_error(found, 2 * RHO - divergences) < TIGHT


@pytest.mark.parametrize("weight", [1, 2])
def test_v3s_temperature_gradient_in_closed_form(toy, tau, averages, weight):
    """Autograd, against the formula; the weight leaves the encoders' gradient alone."""
    features = toy.features()
    loss = v3_surrogate(*features, *averages, tau, EPS, RHO, weight)
    *encoders, found = gradients(toy, loss, tau)
    closed = v3_temperature_gradient(*features, *averages, tau, EPS, RHO, weight)
    assert relative_error(found, closed) < TIGHT
    plain = v3_surrogate(*features, *averages, tau, EPS, RHO)
    assert relative_error(encoders, gradients(toy, plain)) < TIGHT


def test_P05_similarity_weights_in_closed_form(toy, tau, averages):
    """Autograd to a matrix of cosines, against the weights; rows of both signs balance."""
    images, texts = (features.detach() for features in toy.features())
    cosines, one = (images @ texts.T).requires_grad_(), torch.eye(12, dtype=torch.float64)
    loss = v3_surrogate(cosines, one, *averages, tau, EPS, RHO)
    (found,) = torch.autograd.grad(loss, cosines)
    closed = similarity_weights(images, texts, *averages, tau, EPS)
    assert relative_error(found, closed) < TIGHT
    (found,) = torch.autograd.grad(v0_surrogate(cosines, one, *averages, tau, EPS), cosines)
    assert relative_error(found, closed / tau) < TIGHT
    (found,) = torch.autograd.grad(
        neuclip(cosines, one, tau, *torch.log(EPS + averages), EPS, RHO), cosines
    )
    off_diagonal = ~torch.eye(12, dtype=torch.bool)
    assert relative_error(found[off_diagonal], closed[off_diagonal]) < TIGHT
    assert abs(closed.sum()) < TIGHT * closed.abs().sum()


def test_P06_v2_descends_the_loss_of_individual_temperatures(toy):
    """Surrogate and closed form, against autograd of the loss; a factor n in the temperatures."""
    tau1 = torch.linspace(0.05, 0.2, 12, dtype=torch.float64).requires_grad_()
    tau2 = torch.linspace(0.1, 0.03, 12, dtype=torch.float64).requires_grad_()
    features = toy.features()
    *encoders, slope1, slope2 = gradients(toy, rgcl(*features, tau1, tau2, EPS, RHO), tau1, tau2)
    sides = ((features, tau1, slope1), (features[::-1], tau2, slope2))
    u1, u2 = (individual_inner_functions(*side, taus) for side, taus, _ in sides)
    surrogate = v2_surrogate(*features, u1, u2, tau1, tau2, EPS)
    found = gradients(toy, surrogate)
    assert relative_error(found, encoders) < TIGHT
    for (side, taus, slope), u in zip(sides, (u1, u2), strict=True):
        closed = individual_temperature_gradient(*side, u, taus, EPS, RHO)
        assert relative_error(closed, 12 * slope) < TIGHT


def test_P06_equal_individual_temperatures_are_the_global_one(toy, tau):
    """One temperature twelve times, against one."""
    equal = tau.expand(12)
    individual = rgcl(*toy.features(), equal, equal, EPS, RHO)
    together = rgcl_g(*toy.features(), tau, EPS, RHO)
    assert relative_error(individual, together) < TIGHT
    found = gradients(toy, individual, tau)
    assert relative_error(found, gradients(toy, together, tau)) < TIGHT


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_P07a_two_roles_of_all_ranks_are_the_single_process(toy, tau, averages, ranks):
    """What is constant in which role, and the roles' divisors, against one process."""
    features = toy.features()
    logs = torch.log(EPS + averages).sum(dim=0).chunk(ranks)
    v0 = v3 = 0.0
    for rank in range(ranks):
        roles = two_roles(*features, *averages, tau, tau.detach(), EPS, rank=rank, ranks=ranks)
        v0 = v0 + sum(roles) / ranks
        v3 = v3 + (tau.detach() * sum(roles) + tau * (logs[rank].mean() + 2 * RHO)) / ranks
    expected = gradients(toy, v0_surrogate(*features, *averages, tau, EPS), tau)
    assert relative_error(gradients(toy, v0, tau), expected) < TIGHT
    expected = gradients(toy, v3_surrogate(*features, *averages, tau, EPS, RHO), tau)
    assert relative_error(gradients(toy, v3, tau), expected) < TIGHT


def test_P07b_half_of_both_roles_with_tau_live_twice(toy, tau, averages):
    """The released scaling: half of the encoders' gradient, all of the exponentials' to tau."""
    features = toy.features()
    loss = 0.0
    for rank in range(2):
        roles = two_roles(*features, *averages, tau, tau, EPS, rank=rank, ranks=2)
        loss = loss + sum(roles) / 2 / 2
    *encoders, slope = gradients(toy, loss, tau)
    *expected, expected_slope = gradients(toy, v0_surrogate(*features, *averages, tau, EPS), tau)
    assert relative_error([2 * each for each in encoders], expected) < TIGHT
    assert relative_error(slope, expected_slope) < TIGHT


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_P09_the_mean_over_ranks_is_the_sigmoid_loss(toy, ranks):
    """Blocks with and without positives and their divisor, against the double loop."""
    scale, bias = leaf(10.0), leaf(-8.0)
    features = toy.features()
    whole = siglip(*features, scale, bias)
    expected = gradients(toy, whole, scale, bias)
    parts = [siglip_of_rank(*features, scale, bias, rank=k, ranks=ranks) for k in range(ranks)]
    mean = sum(parts) / ranks
    assert relative_error(mean, whole) < TIGHT
    assert relative_error(gradients(toy, mean, scale, bias), expected) < TIGHT


def test_sigmoid_loss_by_hand():
    """Own pairs at logit 0, others at -10: softplus(0) + softplus(-10) an image; the divisor."""
    one = torch.eye(2, dtype=torch.float64)
    found = siglip(one, one, numbers(10.0)[0], numbers(-10.0)[0])
    assert found.item() == pytest.approx(math.log(2) + math.log1p(math.exp(-10)), rel=TIGHT)
    found = softplus(numbers(-40.0, 0.0, 21.0)).tolist()
    expected = [math.exp(-40), math.log(2), 21 + math.log1p(math.exp(-21))]
    assert found == pytest.approx(expected, rel=TIGHT)


def test_P16a_a_mirror_descent_step_is_the_moving_average():
    """The step in alpha, against the update of u."""
    u, g = numbers(0.2, 3.0, 1e-3), numbers(0.5, 0.1, 2.0)
    found = mirror_descent_step(torch.log(EPS + u), g, 0.3, EPS)
    assert relative_error(found, torch.log(EPS + update(u, g, 0.3))) < TIGHT


def test_P16b_a_proximal_step_of_the_conjugate_is_the_moving_average():
    """Where the proximal objective of y = -exp(-alpha) is flat, against the update of u."""
    u, g, rate = numbers(0.2, 3.0, 1e-3), numbers(0.5, 0.1, 2.0), 0.3
    eta = rate / (1 - rate)
    old = -1 / (EPS + u)
    y = (-1 / (EPS + update(u, g, rate))).requires_grad_()

    def conjugate(y):
        return -torch.log(-y) - 1

    divergence = conjugate(y) - conjugate(old) - (-1 / old) * (y - old)
    objective = eta * (conjugate(y) - y * (EPS + g)) + divergence
    (slope,) = torch.autograd.grad(objective.sum(), y)
    assert (slope.abs() < TIGHT * (EPS + u + g)).all()


def test_P16c_scents_step_is_a_moving_average_with_its_own_gamma():
    """Where the proximal objective of alpha under exp(-alpha) is flat, against the update of u."""
    u, g, log_step = numbers(0.2, 3.0, 1e-3), numbers(0.5, 0.1, 2.0), 1.5
    old = torch.log(EPS + u)
    rates = scent_gamma(old, log_step)
    new = torch.cat([update(u[[i]], g[[i]], float(rates[i])) for i in range(3)])
    alpha = torch.log(EPS + new).requires_grad_()
    divergence = torch.exp(-alpha) - torch.exp(-old) + torch.exp(-old) * (alpha - old)
    objective = math.exp(log_step) * (torch.exp(-alpha) * (EPS + g) + alpha) + divergence
    (slope,) = torch.autograd.grad(objective.sum(), alpha)
    assert (slope.abs() < TIGHT * (math.exp(log_step) + torch.exp(-old))).all()


def test_P16d_the_update_of_logarithms():
    """logaddexp, against the update of the numbers; and where those underflow."""
    u, g = numbers(0.2, 3.0, 0.0, math.inf, math.nan), numbers(0.5, 0.1, 2.0, 4.0, 5.0)
    for rate in (0.3, 1.0):
        found = log_update(torch.log(u), torch.log(g), rate)
        assert relative_error(found, torch.log(update(u, g, rate))) < TIGHT
    found = log_update(numbers(-1000.0), numbers(-1001.0), 0.25)
    assert found.item() == pytest.approx(-1000 + math.log(0.75 + 0.25 * math.exp(-1)), rel=TIGHT)


def test_P17_fixed_alphas_make_batches_unbiased():
    """The mean over all batches of 4 of 7, against the whole set; the log loss is biased."""
    toy, tau = Toy(n=7), leaf(0.07)
    generator = torch.Generator().manual_seed(1)
    alphas = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    batches = [list(batch) for batch in itertools.combinations(range(7), 4)]
    images, texts = toy.features()

    def mean_over_batches(loss):
        return sum(loss(batch) for batch in batches) / len(batches)

    def at_fixed_alphas(rows):
        return neuclip(images[rows], texts[rows], tau, *alphas[:, rows], EPS, RHO)

    def of_logarithms(rows):
        return rgcl_g(images[rows], texts[rows], tau, EPS, RHO)

    whole = list(range(7))
    errors = []
    for loss in (at_fixed_alphas, of_logarithms):
        wanted = torch.autograd.grad(loss(whole), [*toy.encoders, tau], retain_graph=True)
        mean = mean_over_batches(loss)
        found = torch.autograd.grad(mean, [*toy.encoders, tau], retain_graph=True)
        errors.append(relative_error(found, wanted))
    assert errors[0] < TIGHT
    assert errors[1] > 0.01


def test_P18_a_queue_of_the_batch_itself_counts_the_own_pair(toy):
    """A queue that holds the own pair under another id: ((n - 1) g + 1) / n; masked it is exact."""
    images, texts = (features.detach() for features in toy.features())
    inner = inner_functions(images, texts, 0.07)
    found = queue_values(images, texts, texts, toy.ids, toy.ids + 1000, 0.07, EPS)
    assert relative_error(torch.exp(found) - EPS, (11 * inner + 1) / 12) < TIGHT
    found = queue_values(images, texts, 2 * texts, toy.ids, toy.ids, 0.07, EPS)
    assert relative_error(found, torch.log(EPS + inner)) < TIGHT
    exact = exact_normalizers(images, texts, toy.ids, 0.07, EPS)
    assert relative_error(found, exact) < TIGHT


def test_duplicates_of_the_anchors_id_are_no_contrasts():
    """Masking by id, against masking by position: rows 0 and 2 are the same sample."""
    images = torch.eye(3, dtype=torch.float64)[[0, 1, 0]]
    texts = images.clone()
    found = exact_normalizers(images, texts, torch.tensor([4, 5, 4]), 0.5, 0.0)
    assert relative_error(found, numbers(-2.0, -2.0, -2.0)) < TIGHT
    distinct = exact_normalizers(images, texts, torch.tensor([4, 5, 6]), 0.5, 0.0)
    expected = math.log((1 + math.exp(-2)) / 2)
    assert relative_error(distinct, numbers(expected, -2.0, expected)) < TIGHT


def test_P21_amorlip_with_the_batchs_sums_is_twice_openclip(toy):
    """A linear loss with constant sums, against two cross-entropies, the scale's gradient too."""
    scale = leaf(14.0)
    features = toy.features()
    images, texts = features
    targets = log_target(images, texts, scale, 1.0), log_target(texts, images, scale, 1.0)
    expected = gradients(toy, 2 * infonce(*features, 1 / scale), scale)
    found = gradients(toy, encoder_loss(*features, scale, *targets, 1.0), scale)
    assert relative_error(found, expected) < TIGHT
    loss = scaled_encoder_loss(*features, scale, *targets, 1.0, RHO)
    *encoders, slope = gradients(toy, loss, scale)
    assert relative_error(encoders, [each / 14 for each in expected[:2]]) < TIGHT
    assert relative_error(slope, expected[2] / 14 - RHO / 14**2) < TIGHT


def test_amorlips_target_is_a_sum_and_not_relative_to_the_own_pair(toy):
    """log T_i - scale s_ii without the own pair, against log((B - 1) g_i)."""
    images, texts = (features.detach() for features in toy.features())
    own = (images * texts).sum(dim=1)
    found = log_target(images, texts, 1 / 0.07, 0.0) - own / 0.07
    assert relative_error(found, torch.log(11 * inner_functions(images, texts, 0.07))) < TIGHT
    one = torch.eye(2, dtype=torch.float64)
    target = log_target(one, one, 5.0, 0.25)
    assert target.tolist() == pytest.approx([math.log(1 + math.exp(5) / 4)] * 2, rel=TIGHT)
    # -2 scale + 2 (1 + e^5 / 4) / lambda
    loss = encoder_loss(one, one, 5.0, *torch.log(numbers(2, 2, 2, 2)).view(2, 2), 0.25)
    assert loss.item() == pytest.approx(-10 + 1 + math.exp(5) / 4, rel=TIGHT)


def test_amorlips_network_is_that_of_torchs_layers():
    """Matrix algebra, against torch's layers in the order written."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Linear(6, 4),
        torch.nn.ReLU(),
        torch.nn.LayerNorm(4),
        torch.nn.Linear(4, 6),
        torch.nn.ReLU(),
        torch.nn.LayerNorm(6),
    ).double()
    head = torch.nn.Linear(6, 1).double()
    weights = [torch.randn_like(each) for each in (*body.parameters(), *head.parameters())]
    with torch.no_grad():
        for parameter, value in zip((*body.parameters(), *head.parameters()), weights, strict=True):
            parameter.copy_(value)
    features = torch.randn(5, 6, dtype=torch.float64)
    expected = head(torch.relu(features + body(features)))[:, 0]
    assert relative_error(log_lambda(features, weights), expected) < TIGHT


def test_amorlips_smoothing_and_amortisation_by_hand():
    """The ramp's ends and middle, a mean of sums and not of logarithms, a mean of squares."""
    ramp = [smoothing(epoch, beta_max=0.8, ramp_epochs=16) for epoch in (0, 8, 16, 20)]
    assert ramp == pytest.approx([0.0, 0.4, 0.8, 0.8], rel=TIGHT, abs=TIGHT)
    mixed = smoothed_log_target(numbers(math.log(2)), numbers(math.log(6)), 0.75)
    assert mixed.item() == pytest.approx(math.log(5), rel=TIGHT)
    assert log_l2(numbers(1.0, 2.0), numbers(0.0, 4.0)).item() == pytest.approx(2.5, rel=TIGHT)


def test_P22_the_update_bounds_the_ratio_and_welcomes_the_unvisited():
    """g / (eps + u) against 1 / gamma; which old values are averaged and which give way."""
    u, g = numbers(0.0, 1e-36, math.inf, math.nan, 1e-30, 2.0), numbers(1, 2, 3, 4, 5, 6)
    new = update(u, g, 0.25)
    assert new.tolist() == pytest.approx([1, 2, 3, 4, 1.25, 3.0], rel=TIGHT)
    assert (g / (EPS + new) <= 4).all()
    assert update(u, g, 1.0).tolist() == g.tolist()


def test_gammas_schedule():
    """Published checkpoints, against the cosine; epoch 0 is 1 also where gamma is constant."""
    found = [gamma(epoch, gamma_min=0.2, decay_epochs=18) for epoch in (0, 1, 9, 17, 18, 40)]
    assert found == pytest.approx([1, 0.993923, 0.6, 0.206077, 0.2, 0.2], abs=1e-6)
    assert gamma(5, gamma_min=0.8, decay_epochs=10) == pytest.approx(0.9, rel=TIGHT)
    assert gamma(0, gamma_min=0.2, decay_epochs=0) == 1
    assert [constant_gamma(epoch, gamma=0.6) for epoch in (0, 1, 9)] == [1, 0.6, 0.6]


def test_inner_functions_and_v3_by_hand():
    """Two orthogonal pairs at tau 0.5: every g is exp(-2); the weights of four cosines."""
    one, tau = torch.eye(2, dtype=torch.float64), leaf(0.5)
    u = numbers(2.0, 4.0)
    share = math.exp(-2)
    weights = similarity_weights(one, one, u, u, tau.detach(), 0.0)
    expected = numbers(-share / 2, 3 * share / 8, 3 * share / 8, -share / 4).view(2, 2)
    assert relative_error(weights, expected) < TIGHT
    # mean_i 2 log u_i + 2 rho + 2 * mean_i 2 share / u_i
    expected = math.log(8) + 2 * RHO + 4 * share * (1 / 2 + 1 / 4) / 2
    found = v3_temperature_gradient(one, one, u, u, tau.detach(), 0.0, RHO)
    assert found.item() == pytest.approx(expected, rel=TIGHT)


def test_an_individual_adam_step_by_hand():
    """Epoch 0 is a step of the sign; then moments corrected by epochs; clip and range."""
    taus, zero = numbers(0.03, 0.03, 0.03), torch.zeros(3, dtype=torch.float64)
    settings = {"lr": 0.0133, "betas": (0.9, 0.999), "adam_eps": 0.0}
    found, m, v = individual_adam_step(taus, zero, zero, numbers(-9.0, 2.0, 0.1), 0, **settings)
    assert found.tolist() == pytest.approx([0.0433, 0.0167, 0.0167], rel=TIGHT)
    assert m.tolist() == [-5, 2, 0.1]
    assert v.tolist() == pytest.approx([25, 4, 0.01], rel=TIGHT)
    found, m, v = individual_adam_step(found, m, v, numbers(-9.0, -2.0, 9.0), 1, **settings)
    assert m.tolist() == pytest.approx([-5, 1.6, 0.59], rel=TIGHT)
    first = [each / (1 - 0.9**2) for each in (-5, 1.6)]
    second = [math.sqrt(each / (1 - 0.999**2)) for each in (25, 4)]
    expected = [0.0433 - 0.0133 * first[0] / second[0], 0.0167 - 0.0133 * first[1] / second[1]]
    assert found[:2].tolist() == pytest.approx([max(each, 0.01) for each in expected], rel=TIGHT)


def test_an_isogclr_step_by_hand():
    """The new gradient weighs 0.9 and is clipped, not the average; the range."""
    found, m = isogclr_step(
        numbers(0.5, 0.01, 0.9), numbers(8.0, 0.0, 0.0), numbers(9, 1, -9), lr=0.03
    )
    assert m.tolist() == pytest.approx([5.3, 0.9, -4.5], rel=TIGHT)
    assert found.tolist() == pytest.approx([0.5 - 0.03 * 5.3, 0.005, 1.0], rel=TIGHT)


@pytest.fixture
def queue(toy):
    """Eleven past rows, the first three of samples of the toy; in blocks of 2, 4 and 5."""
    generator = torch.Generator().manual_seed(5)
    texts = toy.features()[1].detach()
    noise = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    ids = -1 - torch.arange(11)
    ids[:3] = toy.ids[[7, 2, 5]]
    rows = texts[[7, 2, 5, 0, 1, 3, 4, 6, 8, 9, 10]] + noise / 4
    return rows, ids


def test_the_oldest_rows_leave_the_queue():
    """Which end is the old one."""
    ids = torch.arange(0)
    for batch in (torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([5, 6])):
        ids = pushed(ids, batch, 5)
    assert ids.tolist() == [5, 6, 3, 4, 1]


def test_blocks_double_and_the_last_is_cut():
    """Sizes, against the capacity."""
    blocks = age_blocks(15000, 512)
    assert [len(block) for block in blocks] == [512, 1024, 2048, 4096, 7320]
    assert [*itertools.chain(*blocks)] == [*range(15000)]
    assert age_blocks(3, 4) == [range(3)]


def test_even_block_weights_make_the_plain_queue(toy, queue):
    """Sums over blocks, against one mean; a queue half full, and one factor in all blocks."""
    images, texts = (features.detach() for features in toy.features())
    rows, ids = queue
    for length in (11, 4):
        known = (rows[:length], toy.ids, ids[:length])
        sums, counts = block_sums(images, texts, *known, 0.07, age_blocks(11, 2))
        plain = queue_values(images, texts, *known, 0.07, 0.0)
        found = age_weighted_values(sums, counts, torch.zeros(3, dtype=torch.float64), 0.0)
        assert relative_error(found, plain) < TIGHT
        moved = age_weighted_values(sums, counts, numbers(0.5, 0.5, 0.5), 0.0)
        assert relative_error(moved, plain + 0.5) < TIGHT
    assert counts.sum(dim=1).tolist() == [3 if i in (2, 5, 7) else 4 for i in range(12)]


def test_block_weights_descend_the_conjugate_objective(toy, queue):
    """The formula, against autograd; with the clamp an anchor counts 1 - e^6 at most."""
    images, texts = (features.detach() for features in toy.features())
    rows, ids = queue
    sums, counts = block_sums(images, texts, rows, toy.ids, ids, 0.07, age_blocks(11, 2))
    logs = torch.log(inner_functions(images, texts, 0.07))
    weights = numbers(0.3, -0.2, 0.1).requires_grad_()
    values = age_weighted_values(sums, counts, weights, 0.0)
    objective = (torch.exp(logs - values) + values - 1).mean()
    (expected,) = torch.autograd.grad(objective, weights)
    found = block_weight_gradient(sums, values, logs, weights, largest_exponent=math.inf)
    assert relative_error(found, expected) < TIGHT
    far = block_weight_gradient(sums, values, values + 9, weights)
    assert far.sum().item() == pytest.approx(1 - math.exp(6), rel=TIGHT)


def test_an_rms_step_and_an_offset_by_hand():
    """The first step's length 1 / sqrt(1 - decay), and a mean of ratios, not of logarithms."""
    weights, square = rms_step(
        numbers(0.0, 1.0), numbers(0.0, 0.0), numbers(3.0, 0.0), rate=0.1, decay=0.75, tiny=1e-300
    )
    assert weights.tolist() == pytest.approx([-0.2, 1.0], rel=TIGHT)
    assert square.tolist() == pytest.approx([2.25, 0.0], rel=TIGHT)
    logs = numbers(math.log(2), math.log(6))
    offset = updated_offset(1.0, logs, numbers(0.0, math.log(2)), 0.9)
    assert offset.item() == pytest.approx(0.9 + 0.1 * 2.5, rel=TIGHT)


@pytest.mark.parametrize("name", ["rgcl_g", "rgcl", "siglip", "encoder_loss"])
def test_P20_autograd_agrees_with_central_differences(toy, name):
    """Autograd of a loop, against the loop's own values."""
    images, texts = (features.detach() for features in toy.features())
    losses = {
        "rgcl_g": lambda x: rgcl_g(images, texts, x, EPS, RHO),
        "rgcl": lambda x: rgcl(images, texts, x.expand(12), 2 * x.expand(12), EPS, RHO),
        "siglip": lambda x: siglip(images, texts, 1 / x, -100 * x),
        "encoder_loss": lambda x: encoder_loss(
            images, texts, 1 / x, numbers(10).expand(12), numbers(9).expand(12), 0.1
        ),
    }
    x = leaf(0.07)
    (found,) = torch.autograd.grad(losses[name](x), x)
    h = 1e-6
    with torch.no_grad():
        expected = (losses[name](x + h) - losses[name](x - h)) / (2 * h)
    assert relative_error(found, expected) < 1e-6
