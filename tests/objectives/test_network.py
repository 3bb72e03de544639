"""Oracles: the network's definition as loops with autograd, torch's Adagrad, and identities."""

import pytest
import torch
from oracles.contrastive import inner_functions, predicted
from oracles.toy import Toy, relative_error

from neuclip.distributed.world import World
from neuclip.objectives.config import NetworkConfig
from neuclip.objectives.estimators import network as network_module
from neuclip.objectives.estimators.estimator import Anchors
from neuclip.objectives.estimators.network import NormalizerNetwork

TAU = 0.07
EPS = 1e-6
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5)]


class Setting:
    """A network with given prototypes and the arguments that its methods take."""

    def __init__(self, toy, prototypes, prototype_ids, *, eps=EPS, clamp=None, **fields):
        config = NetworkConfig(
            **{"num_prototypes": prototypes.shape[1], "inner_lr": 0.01, **fields}
        )
        self.network = NormalizerNetwork(
            config, prototypes.shape[2], eps=eps, ratio_clamp=clamp, world=World.single()
        ).to(prototypes.dtype)
        self.network.restart(prototypes, prototype_ids)
        images, texts = (features.detach() for features in toy.features())
        own_cosine = (images * texts).sum(dim=1)
        tau = torch.tensor(TAU, dtype=prototypes.dtype)
        self.anchors = Anchors(torch.stack([images, texts]), own_cosine, toy.ids, tau)
        exact = self.anchors.features_SBD.double()
        self.batch = torch.log(eps + both_inner_functions(*exact)).to(prototypes.dtype)

    def alpha(self):
        return self.network(self.anchors)

    def gradient(self):
        return self.network.gradient(self.anchors, self.batch)


def both_inner_functions(images, texts):
    return torch.stack([inner_functions(images, texts, TAU), inner_functions(texts, images, TAU)])


def fit_by_loops(toy, prototypes, prototype_ids, batch, *, eps=EPS, limit=float("inf")):
    """tau * mean_i sum_sides {exp(l - alpha) + alpha - 1}; r beyond the limit is held at it."""
    images, texts = (features.detach().double() for features in toy.features())
    alphas = [
        predicted(images, texts, prototypes[0], TAU, eps, toy.ids, prototype_ids),
        predicted(texts, images, prototypes[1], TAU, eps, toy.ids, prototype_ids),
    ]
    total = 0.0
    for alpha, target in zip(alphas, batch.double(), strict=True):
        for a, t in zip(alpha, target, strict=True):
            is_free = torch.exp(t - a) < limit
            total = total + (torch.exp(t - a) if is_free else -limit * a) + a - 1
    return TAU * total / len(images)


def whole_set(toy):
    images, texts = (features.detach() for features in toy.features())
    return torch.stack([texts, images])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_P11a_all_embeddings_as_prototypes_count_the_own_pair(dtype, tolerance):
    toy = Toy(dtype=dtype)
    setting = Setting(toy, whole_set(toy), toy.ids, mask_own_pair=False)
    g = both_inner_functions(*setting.anchors.features_SBD.double())
    assert relative_error(setting.alpha().exp() - EPS, (11 * g + 1) / 12) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_P11b_masking_the_own_pair_gives_the_exact_normalizer(dtype, tolerance):
    toy = Toy(dtype=dtype)
    setting = Setting(toy, whole_set(toy), toy.ids)
    exact = torch.log(EPS + both_inner_functions(*setting.anchors.features_SBD.double()))
    assert relative_error(setting.alpha(), exact) < tolerance


def test_P11c_column_length_and_order_do_not_matter(toy, some_prototypes):
    prototypes, ids = some_prototypes(toy)
    alpha = Setting(toy, prototypes, ids).alpha()
    lengths = torch.linspace(0.1, 7, 9, dtype=torch.float64)[:, None]
    assert relative_error(Setting(toy, prototypes * lengths, ids).alpha(), alpha) < 1e-12
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert relative_error(Setting(toy, prototypes[:, order], ids[order]).alpha(), alpha) < 1e-12


def test_P11d_without_eps_the_own_cosine_is_a_shift(toy, some_prototypes):
    prototypes, ids = some_prototypes(toy)
    setting = Setting(toy, prototypes, ids, eps=0.0, mask_own_pair=False)
    directions = prototypes / prototypes.norm(dim=2, keepdim=True)
    pooled = torch.logsumexp(
        torch.einsum("sbd,smd->sbm", setting.anchors.features_SBD, directions) / TAU, 2
    )
    expected = pooled - torch.tensor(9.0).double().log() - setting.anchors.own_cosine_B / TAU
    assert relative_error(setting.alpha(), expected) < 1e-12


def test_a_mask_by_sample_id_equals_the_loops(toy, some_prototypes):
    prototypes, ids = some_prototypes(toy)
    images, texts = (features.detach() for features in toy.features())
    expected = torch.stack(
        [
            predicted(images, texts, prototypes[0], TAU, EPS, toy.ids, ids),
            predicted(texts, images, prototypes[1], TAU, EPS, toy.ids, ids),
        ]
    )
    assert relative_error(Setting(toy, prototypes, ids).alpha(), expected) < 1e-12
    unmasked = Setting(toy, prototypes, ids, mask_own_pair=False).alpha()
    assert relative_error(unmasked, expected) > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("limit", [None, 1.5])
def test_P12_gradient_equals_autograd_of_the_loops(some_prototypes, dtype, tolerance, limit):
    toy = Toy(dtype=dtype)
    prototypes, ids = some_prototypes(toy)
    setting = Setting(toy, prototypes, ids, clamp=limit)
    leaf = setting.network.prototypes_SMD.double().requires_grad_()  # the same directions
    loss = fit_by_loops(toy, leaf, ids, setting.batch, limit=limit or float("inf"))
    [expected] = torch.autograd.grad(loss, [leaf])
    ratio = (setting.batch - setting.alpha()).exp()
    assert 0 < (ratio > 1.5).sum() < ratio.numel()  # both branches of the limit are taken
    assert relative_error(list(setting.gradient()), list(expected)) < tolerance


def test_P12_gradient_is_orthogonal_to_the_columns(toy, some_prototypes):
    setting = Setting(toy, *some_prototypes(toy))
    gradient = setting.gradient()
    along = (gradient * setting.network.prototypes_SMD).sum(dim=2)
    assert along.abs().max() < 1e-14
    assert gradient.norm(dim=2).min() > 1e-6


def test_P20_gradient_equals_central_differences(toy, some_prototypes):
    prototypes, ids = some_prototypes(toy)
    setting = Setting(toy, prototypes, ids)
    prototypes = setting.network.prototypes_SMD.clone()
    found = setting.gradient()
    h = 1e-6
    for place in ((0, 0, 0), (0, 4, 3), (1, 1, 5), (1, 8, 2)):
        step = torch.zeros_like(prototypes)
        step[place] = h
        high = fit_by_loops(toy, prototypes + step, ids, setting.batch)
        low = fit_by_loops(toy, prototypes - step, ids, setting.batch)
        assert abs((high - low) / (2 * h) - found[place]) < 1e-6 * found.abs().max()


def test_updates_equal_torch_adagrad_of_unit_prototypes(toy, some_prototypes):
    prototypes, ids = some_prototypes(toy)
    setting = Setting(toy, prototypes, ids, inner_steps=4)
    leaf = torch.nn.Parameter(torch.nn.functional.normalize(prototypes, dim=2))
    optimizer = torch.optim.Adagrad([leaf], lr=0.01, eps=1e-8)
    for _ in range(4):
        leaf.grad = torch.autograd.grad(fit_by_loops(toy, leaf, ids, setting.batch), [leaf])[0]
        optimizer.step()
        leaf.data = torch.nn.functional.normalize(leaf.data, dim=2)
    setting.network.fit(setting.anchors, setting.batch)
    assert relative_error(setting.network.prototypes_SMD, leaf.detach()) < 1e-10
    sums = optimizer.state[leaf]["sum"]
    assert relative_error(setting.network.squared_gradients_SMD, sums) < 1e-10


def test_the_fit_is_the_same_in_slices_of_anchors(toy, some_prototypes, monkeypatch):
    """Oracle: the whole at once."""
    setting = Setting(toy, *some_prototypes(toy))
    whole = setting.gradient()
    monkeypatch.setattr(network_module, "_MAX_SIMILARITIES", 2 * 5 * 9)
    assert relative_error(setting.gradient(), whole) < 1e-13


@pytest.mark.parametrize(("tau", "bound"), [(0.07, 0.26 / 7), (0.01, 0.26)])
def test_bf16_products_stay_within_the_measured_error(tau, bound):
    """Oracle: float32, on random unit vectors of width 512; bounds in nats of alpha."""
    generator = torch.Generator().manual_seed(0)
    images, prototypes = torch.nn.functional.normalize(
        torch.randn(2, 256, 512, generator=generator), dim=2
    )
    terms = {}
    for precision in ("fp32", "bf16"):
        config = NetworkConfig(num_prototypes=256, fit_precision=precision)
        network = NormalizerNetwork(config, 512, eps=1e-14, ratio_clamp=20.0, world=World.single())
        left, right = (images / tau).expand(2, -1, -1), prototypes.T.expand(2, -1, -1)
        product = network._product(left, right, add=torch.zeros(2, 256, 256))
        terms[precision] = torch.logsumexp(product, dim=2)
    assert 0 < (terms["bf16"] - terms["fp32"]).abs().max() < bound


@pytest.mark.parametrize(("tau", "bound"), [(0.07, 1e-3), (0.01, 5e-3)])
def test_tf32_products_change_the_gradient_by_little(tau, bound, monkeypatch):
    """Oracle: float32, beside products of inputs that are rounded to TF32's 10 bits, as a GPU's tensor cores do."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(512, generator=generator)
    images, texts, prototypes = torch.nn.functional.normalize(
        centre + torch.randn(3, 256, 512, generator=generator), dim=2
    )
    network = NormalizerNetwork(
        NetworkConfig(num_prototypes=256), 512, eps=1e-14, ratio_clamp=20.0, world=World.single()
    )
    network.restart(torch.stack([prototypes, prototypes]), torch.arange(1000, 1256))
    own = (images * texts).sum(dim=1)
    sides, ids = torch.stack([images, texts]), torch.arange(256)
    anchors = Anchors(sides, own, ids, torch.tensor(tau))
    log_batch = torch.randn(2, 256, generator=generator) + network(anchors)
    exact, product = network.gradient(anchors, log_batch), network._product
    monkeypatch.setattr(
        network,
        "_product",
        lambda left, right, *, add: product(in_tf32(left), in_tf32(right), add=add),
    )
    assert 1e-6 < relative_error(network.gradient(anchors, log_batch), exact) < bound


def in_tf32(values):
    """The nearest numbers of 10 bits beside the leading one."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_many_steps_on_one_batch_reproduce_its_normalizers(toy, some_prototypes):
    setting = Setting(toy, *some_prototypes(toy, count=64), inner_lr=0.05, inner_steps=300)
    before = (setting.alpha() - setting.batch).square().mean()
    setting.network.fit(setting.anchors, setting.batch)
    assert (setting.alpha() - setting.batch).square().mean() < before / 100
