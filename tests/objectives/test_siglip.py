"""Oracles: the sigmoid loss as a double loop in float64, and open_clip's SigLipLoss."""

import pytest
import torch
from objectives.fixed import make, value_and_gradients
from open_clip.loss import SigLipLoss
from oracles.siglip import siglip
from oracles.toy import Toy, relative_error


def parts(toy, objective):
    exact = toy.double()
    t = objective.learned_temperature.log_scale.detach().double().requires_grad_()
    bias = objective.logit_bias.detach().double().requires_grad_()
    return exact, t, bias


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_loss_and_gradients_equal_the_loops(dtype, tolerance):
    toy = Toy(dtype=dtype)
    objective = make(toy, {"name": "siglip", "bias_init": -3.0})
    result, gradients = value_and_gradients(toy, objective)
    exact, t, bias = parts(toy, objective)
    loss = siglip(*exact.features(), t.exp(), bias)
    expected = torch.autograd.grad(loss, [*exact.encoders, t, bias])
    assert relative_error(result.loss, loss) < tolerance
    assert relative_error(gradients, expected) < tolerance
    assert result.log_normalizers is None
    assert objective.predict(*(f.detach() for f in toy.features()), toy.ids) is None


def test_equals_open_clip_in_float32():
    toy = Toy(dtype=torch.float32)
    objective = make(toy, {"name": "siglip"})
    result, gradients = value_and_gradients(toy, objective)
    t, bias = objective.learned_temperature.log_scale, objective.logit_bias
    loss = SigLipLoss()(*toy.features(), t.exp(), bias)
    expected = torch.autograd.grad(loss, [*toy.encoders, t, bias])
    assert relative_error(result.loss, loss) < 1e-6
    assert relative_error(gradients, expected) < 1e-6


def test_starts_as_published(toy):
    objective = make(toy, {"name": "siglip"})
    assert 1 / objective.temperature.item() == pytest.approx(10)
    assert objective.logit_bias.item() == -10
    assert [group.name for group in objective.trainable()] == ["temperature", "logit_bias"]


def test_a_twin_of_a_sample_is_neither_its_pair_nor_its_negative(toy):
    objective = make(toy, {"name": "siglip", "bias_init": -3.0})
    ids = torch.arange(12)
    ids[5] = 2
    images, texts = (features.detach() for features in toy.features())
    plain = objective(images, texts, torch.arange(12)).loss
    masked = objective(images, texts, ids).loss
    scale, bias = 10.0, -3.0
    twins = [(2, 5), (5, 2)]
    removed = sum(
        torch.nn.functional.softplus(scale * images[i] @ texts[j] + bias) for i, j in twins
    )
    assert relative_error(plain - masked, removed / 12) < 1e-6
