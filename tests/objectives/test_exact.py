"""Oracles: exact log-normalizers as loops in float64; hand-made estimates."""

import math

import pytest
import torch
from oracles.estimators import exact_normalizers
from oracles.toy import Toy, relative_error

from neuclip.objectives import exact as exact_module
from neuclip.objectives.exact import (
    Features,
    error_of,
    exact_log_normalizers,
    implied_by_infonce,
)


@pytest.mark.parametrize("limit", [1 << 24, 12, 60])
def test_P01_slices_equal_the_loops_with_twins_left_out(monkeypatch, limit):
    monkeypatch.setattr(exact_module, "_MAX_SIMILARITIES", limit)
    toy = Toy()
    images, texts = (features.detach() for features in toy.features())
    ids = torch.arange(12)
    ids[7] = 3
    whole = Features(images, texts, ids)
    tau = torch.tensor(0.07)
    found = exact_log_normalizers(whole, whole, tau, eps=1e-6)
    tau = tau.double()
    expected = [
        exact_normalizers(images, texts, ids, tau, 1e-6),
        exact_normalizers(texts, images, ids, tau, 1e-6),
    ]
    assert relative_error(list(found), expected) < 2e-6


def test_error_of_hand_made_estimates():
    exact = torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]])
    error = error_of(exact + 0.5, exact)
    assert (error.mse, error.bias, error.known) == (0.25, 0.5, 1.0)
    assert error.correlation == pytest.approx(1)
    error = error_of(torch.tensor([[math.nan, 1.0, 4.0], [math.nan, 4.0, 2.0]]), exact)
    assert error.mse == pytest.approx((0 + 4 + 4 + 4) / 4)
    assert error.bias == pytest.approx((0 + 2 + 2 - 2) / 4)
    assert error.correlation == pytest.approx(0)  # 1 on one side, -1 on the other
    assert error.known == pytest.approx(4 / 6)
    assert math.isnan(error_of(torch.full((2, 3), math.nan), exact).mse)


def test_what_infonce_implies():
    found = implied_by_infonce(torch.tensor([[0.0], [1.0]]), 4)
    expected = [math.log(1 / 4 + 1), math.log(1 / 4 + math.e)]
    assert found.flatten().tolist() == pytest.approx(expected)
