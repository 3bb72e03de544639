"""Oracle: log(eps + naive mean of exponentials), by loops in float64."""

import pytest
import torch
from oracles.contrastive import inner_functions
from oracles.toy import Toy, relative_error

from neuclip.objectives.margins import log_normalizers, log_weights, scaled_margins


def margins_and_weights(images, texts, tau):
    anchors = torch.stack([images, texts])
    own_cosine = (images * texts).sum(dim=1)
    margins = scaled_margins(anchors, anchors.flip(0), own_cosine, images.new_tensor(tau))
    return margins, log_weights(torch.eye(len(images), dtype=torch.bool), images.dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_P01_chunked_and_whole_equal_the_naive_mean(dtype, tolerance):
    toy = Toy(dtype=dtype)
    images, texts = (features.detach() for features in toy.features())
    margins, weights = margins_and_weights(images, texts, 0.07)
    whole = log_normalizers(margins, weights, 1e-6)
    chunks = zip(margins.split(5, dim=2), weights.split(5, dim=1), strict=True)
    parts = torch.stack([log_normalizers(m, w, 0.0) for m, w in chunks], dim=2)
    chunked = log_normalizers(parts, torch.zeros(12, 3, dtype=dtype), 1e-6)
    images, texts = images.double(), texts.double()
    naive = torch.log(
        1e-6
        + torch.stack([inner_functions(images, texts, 0.07), inner_functions(texts, images, 0.07)])
    )
    assert relative_error(whole, naive) < tolerance
    assert relative_error(chunked, naive) < tolerance


def test_P19_log_domain_survives_a_temperature_where_exp_overflows():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 64, 16, generator=generator, dtype=torch.float64)
    images, texts = torch.nn.functional.normalize(features, dim=2)
    images, texts = images.float(), texts.float()
    margins, weights = margins_and_weights(images, texts, 0.01)
    exact = log_normalizers(*margins_and_weights(images.double(), texts.double(), 0.01), 1e-14)
    assert torch.exp(margins).isinf().any()
    assert (log_normalizers(margins, weights, 1e-14) - exact).abs().max() < 2e-5


def test_weights_average_what_is_not_excluded():
    weights = log_weights(torch.tensor([[True, False, False], [False] * 3]), torch.float64)
    expected = torch.tensor([[0.0, 1 / 2, 1 / 2], [1 / 3] * 3], dtype=torch.float64)
    torch.testing.assert_close(weights.exp(), expected)


def test_an_anchor_without_any_column_has_a_mean_of_nothing_instead_of_nan():
    weights = log_weights(torch.tensor([[True, True]]), torch.float64)
    margins = torch.zeros(2, 1, 2, dtype=torch.float64, requires_grad=True)
    for eps in (0.0, 1e-6):
        found = log_normalizers(margins, weights, eps)
        [gradient] = torch.autograd.grad(found.sum(), [margins])
        assert torch.isfinite(found).all()
        assert torch.isfinite(gradient).all()
    assert found.detach().exp().flatten().tolist() == pytest.approx([1e-6] * 2)
