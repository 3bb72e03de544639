"""The loss of caption-contrastive tuning. Oracle: its definition in float64, written out with loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuclip.tuning.contrastive import contrastive_loss


def by_hand(queries, positives, negatives, tau):
    def cosine(a, b):
        return float(a @ b / math.sqrt((a @ a) * (b @ b)))

    total = 0.0
    for n, query in enumerate(queries):
        candidates = [*positives, *negatives]
        weights = [math.exp(cosine(query, one) / tau) for one in candidates]
        total -= math.log(weights[n] / sum(weights))
    return total / len(queries)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_it_is_what_is_written(count):
    draw = np.random.default_rng(1)
    queries, positives, negatives = draw.normal(size=(3, 5, 7))
    given_negatives = torch.tensor(negatives[:count]) if count else None
    found = contrastive_loss(
        torch.tensor(queries), torch.tensor(positives), given_negatives, temperature=0.5
    )
    assert float(found) == pytest.approx(
        by_hand(queries, positives, negatives[:count], 0.5), abs=1e-6
    )


def test_without_negatives_it_is_one_way_infonce_at_its_temperature():
    draw = torch.Generator().manual_seed(1)
    queries, positives = torch.randn(2, 6, 8, generator=draw)
    unit = torch.nn.functional.normalize
    logits = 50 * unit(queries, dim=1) @ unit(positives, dim=1).T
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    found = contrastive_loss(queries, positives, temperature=0.02)
    torch.testing.assert_close(found, expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(2, 6), more=st.integers(1, 6))
def test_negatives_never_lower_it(seed, count, more):
    draw = torch.Generator().manual_seed(seed)
    queries, positives = torch.randn(2, count, 5, generator=draw)
    negatives = torch.randn(more, 5, generator=draw)
    without = contrastive_loss(queries, positives, temperature=0.02)
    with_them = contrastive_loss(queries, positives, negatives, temperature=0.02)
    assert with_them >= without * (1 - 1e-6)  # up to rounding


def test_large_cosines_do_not_overflow():
    one = torch.eye(3)
    assert torch.isfinite(contrastive_loss(one, one, -one, temperature=0.001))
