"""Oracles: torch's clip_grad_norm_, and medians by the statistics module."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuclip.training.clip_config import MedianClip, NormClip
from neuclip.training.clipping import GradientClip

CPU, GOOD, BAD = torch.device("cpu"), torch.zeros(()), torch.ones(())


def with_gradients(*norms):
    """Two parameters whose gradient has the norm that is asked for."""
    weights = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(4))]
    for seed, norm in enumerate(norms):
        draw = torch.Generator().manual_seed(seed)
        raw = [torch.randn(p.shape, generator=draw) for p in weights]
        whole = torch.cat([part.flatten() for part in raw]).norm()
        for weight, part in zip(weights, raw, strict=True):
            weight.grad = part * norm / whole
        yield weights, norm_of(weights)


def norm_of(weights):
    return nn.utils.get_total_norm([p.grad for p in weights])


def clipped_norms(clip, norms, verdicts=None):
    found = []
    verdicts = verdicts or [GOOD] * len(norms)
    for (weights, norm), is_bad in zip(with_gradients(*norms), verdicts, strict=True):
        clip.apply(weights, norm, is_bad=is_bad)
        found.append(float(norm_of(weights)))
    return found


def test_a_fixed_norm_is_torchs_to_the_bit():
    for weights, norm in with_gradients(0.3, 5.0):
        twins = [nn.Parameter(p.detach().clone()) for p in weights]
        for twin, weight in zip(twins, weights, strict=True):
            twin.grad = weight.grad.clone()
        nn.utils.clip_grad_norm_(twins, 1.0)
        acted = GradientClip(NormClip(norm=1.0), CPU).apply(weights, norm, is_bad=GOOD)
        assert all(torch.equal(p.grad, t.grad) for p, t in zip(weights, twins, strict=True))
        assert bool(acted) == (norm > 1)


def test_without_a_limit_gradients_stay():
    assert clipped_norms(GradientClip(None, CPU), [1e6]) == pytest.approx([1e6])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=90),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from([1.0, 1e-4, 1e5]),
)
def test_the_median_before_is_the_limit_whatever_the_unit(norms, times, unit):
    found = clipped_norms(GradientClip(MedianClip(times=times), CPU), [unit * n for n in norms])
    for step, norm in enumerate(norms):
        before = norms[max(0, step - 64) : step]
        limit = times * statistics.median(before) if before else norm
        assert found[step] == pytest.approx(unit * min(norm, limit), rel=1e-4)


def test_what_moves_nothing_is_not_remembered():
    clip = GradientClip(MedianClip(times=1.0), CPU)
    norms = [1.0, 50.0, float("nan"), 80.0]
    found = clipped_norms(clip, norms, [GOOD, BAD, GOOD, GOOD])
    assert found[1] == pytest.approx(1.0)
    assert found[3] == pytest.approx(1.0)
    assert clip.state().tolist() == pytest.approx([1.0, 80.0])


def test_a_resumed_one_clips_as_one_that_went_on():
    norms = [0.5 + (7 * n % 11) for n in range(80)]
    whole = clipped_norms(GradientClip(MedianClip(), CPU), norms)
    first = GradientClip(MedianClip(), CPU)
    head = clipped_norms(first, norms[:70])
    second = GradientClip(MedianClip(), CPU)
    second.load_state(first.state())
    # The drawn directions of gradients differ, their norms do not.
    assert head + clipped_norms(second, norms[70:]) == pytest.approx(whole, rel=1e-5)
