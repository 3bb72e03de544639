"""Oracle: what every objective promises of input that does not fit."""

import math

import pytest
import torch
from oracles.toy import Toy

from neuclip.foundation.errors import CheckpointError, NumericsError, ShapeError
from neuclip.objectives.registry import KNOWN, build

PER_SAMPLE = ("sogclr", "isogclr", "fastclip")


@pytest.fixture(params=KNOWN)
def objective(request):
    return build({"name": request.param}, feature_dim=6, num_samples=24)


@pytest.fixture
def features():
    return [side.detach().float() for side in Toy().features()]


def test_a_batch_of_one_is_refused(objective, features):
    images, texts = features
    with pytest.raises(ShapeError, match="at least 2, found 1"):
        objective(images[:1], texts[:1], torch.tensor([0]))


def test_a_batch_of_one_sample_again_and_again_is_refused(objective, features):
    images, texts = features
    with pytest.raises(ShapeError, match=r"all 12 pairs .* at step 0 are of sample 3"):
        objective(images, texts, torch.full((12,), 3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_named_and_change_nothing(objective, features, value):
    images, texts = features
    objective(images, texts, torch.arange(12))
    objective.advance(1)
    before = str(objective.whole_state())
    images[2, 1] = value
    texts[4] = value
    with pytest.raises(
        NumericsError, match=r"2 samples .* step 1 on rank 0: sample ids \[12, 14\]"
    ):
        objective(images, texts, torch.arange(10, 22))
    assert str(objective.whole_state()) == before


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_a_sample_beyond_the_data_set_is_refused(name, features):
    objective = build({"name": name}, feature_dim=6, num_samples=8)
    with pytest.raises(ShapeError, match="ids 0 to 11 at step 0 do not fit the 8 samples"):
        objective(*features, torch.arange(12))
    with pytest.raises(ShapeError, match="ids -1 to 10"):
        objective(*features, torch.arange(-1, 11))


def test_a_state_of_another_objective_or_width_is_refused(objective):
    other = "openclip" if type(objective).__name__ != "OpenClip" else "neuclip"
    foreign = build({"name": other}, feature_dim=6, num_samples=24).whole_state()
    with pytest.raises(CheckpointError, match=f"fit a {type(objective).__name__} of 24 samples"):
        objective.load_whole_state(foreign)


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_a_state_of_another_number_of_samples_is_refused(name):
    state = build({"name": name}, feature_dim=6, num_samples=24).whole_state()
    objective = build({"name": name}, feature_dim=6, num_samples=25)
    with pytest.raises(CheckpointError, match="expected 25 samples, found 24"):
        objective.load_whole_state(state)


def test_the_last_of_a_sample_s_places_in_a_batch_is_kept(features):
    images, texts = features
    objective = build({"name": "sogclr"}, feature_dim=6, num_samples=24)
    ids = torch.arange(12)
    ids[9] = 2
    result = objective(images, texts, ids)
    image_side, _ = objective.predict(images, texts, ids)
    assert image_side[2] == image_side[9] == result.log_normalizers[0][9]
    assert result.log_normalizers[0][2] != result.log_normalizers[0][9]


def test_gradients_are_finite_at_both_bounds_of_the_temperature(objective, features):
    learned = objective.learned_temperature
    if learned is None:
        pytest.skip("each sample has its own, kept in its range after every step")
    for bound in (learned.minimum, learned.maximum):
        learned.log_scale.data.fill_(-math.log(bound))
        leaves = [side.clone().requires_grad_() for side in features]
        result = objective(*leaves, torch.arange(12))
        result.loss.backward()
        assert torch.isfinite(result.loss)
        assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)
        objective.advance(objective.completed_steps + 1)
        assert objective.temperature.item() == pytest.approx(bound)


def test_the_temperature_slows_down_below_a_bound():
    config = {"name": "fastclip", "temperature_lr": 2e-4, "temperature_slow_below": 0.03}
    objective = build(config, feature_dim=6, num_samples=24)
    for tau, factor in ((0.031, 1.0), (0.029, 1 / 3)):
        objective.learned_temperature.log_scale.data.fill_(-math.log(tau))
        [group] = objective.trainable()
        assert (group.lr, group.lr_factor) == (2e-4, factor)
