"""Oracles: InfoNCE by loops in float64, FastCLIP-v0's surrogate, and open_clip's ClipLoss."""

import math

import pytest
import torch
from open_clip.loss import ClipLoss
from oracles.contrastive import fastclip_v0_surrogate, infonce, inner_functions, log_loss
from oracles.toy import Toy, relative_error

PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 2e-6)]


def value_and_gradients(toy, objective):
    """The loss, and its gradient with respect to both encoders and t."""
    result = objective(*toy.features(), toy.ids)
    t = objective.learned_temperature.log_scale
    return result, torch.autograd.grad(result.loss, [*toy.encoders, t])


def oracle(toy, objective, loss_of_tau):
    """The same of a definition, in float64."""
    exact = toy.double()
    t = objective.learned_temperature.log_scale.detach().double().requires_grad_()
    loss = loss_of_tau(*exact.features(), torch.exp(-t))
    return loss, torch.autograd.grad(loss, [*exact.encoders, t])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_loss_and_gradients_equal_the_loops(make_openclip, dtype, tolerance):
    toy = Toy(dtype=dtype)
    objective = make_openclip(toy)
    result, gradients = value_and_gradients(toy, objective)
    loss, expected = oracle(toy, objective, infonce)
    assert relative_error(result.loss, loss) < tolerance
    assert relative_error(gradients, expected) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_P02_half_the_log_loss_with_eps_of_the_batch(make_openclip, dtype, tolerance):
    toy = Toy(dtype=dtype)
    objective = make_openclip(toy)
    result, gradients = value_and_gradients(toy, objective)
    eps = 1 / 11
    value, _ = oracle(toy, objective, lambda *a: math.log(11) + log_loss(*a, eps) / 2)
    _, expected = oracle(toy, objective, lambda *a: fastclip_v0_surrogate(*a, eps) / 2)
    assert relative_error(result.loss, value) < tolerance
    assert relative_error(gradients, expected) < tolerance


def test_equals_open_clip(make_openclip, toy):
    objective = make_openclip(toy)
    result, gradients = value_and_gradients(toy, objective)
    scale = objective.learned_temperature.log_scale.exp()
    loss = ClipLoss()(*toy.features(), scale)
    expected = torch.autograd.grad(loss, [*toy.encoders, objective.learned_temperature.log_scale])
    assert relative_error(result.loss, loss) < 1e-12
    assert relative_error(gradients, expected) < 1e-12


def test_log_normalizers_leave_out_the_own_pair(make_openclip, toy):
    objective = make_openclip(toy)
    result = objective(*toy.features(), toy.ids)
    images, texts = (features.detach() for features in toy.features())
    tau = objective.temperature.detach()
    for found, anchors, contrasts in zip(
        result.log_normalizers, (images, texts), (texts, images), strict=True
    ):
        assert not found.requires_grad
        expected = torch.log(1e-14 + inner_functions(anchors, contrasts, tau))
        assert relative_error(found, expected) < 1e-12


def test_temperature_is_learned_within_its_range(make_openclip, toy):
    objective = make_openclip(toy, temperature_lr=1e-4)
    [group] = objective.trainable()
    assert group.lr == 1e-4
    assert group.parameters == list(objective.parameters())
    for pushed, kept in ((7.0, 100.0), (-2.0, 1.0), (3.0, math.exp(3.0))):
        group.parameters[0].data.fill_(pushed)
        objective.advance(1)
        assert 1 / objective.temperature.item() == pytest.approx(kept)


def test_a_fixed_temperature_takes_no_gradient(make_openclip, toy):
    objective = make_openclip(toy, learn_temperature=False)
    assert objective.trainable() == []
    objective(*toy.features(), toy.ids).loss.backward()
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert toy.image_encoder.grad is not None
