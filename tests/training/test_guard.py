"""Oracles: judgements worked out by hand; a state put back must judge as if nothing had happened."""

import math
import statistics
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training.runs import make_config

from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError
from neuclip.training.guard import LossGuard

IDS = [4, 8, 15]


def make_guard(**changes):
    return LossGuard(make_config(**changes), World.single())


def judge(guard, loss, *, step):
    """Judge one loss, and read the verdict at once."""
    loss = torch.tensor(loss, dtype=torch.float64)
    is_bad, verdict = guard.judge({"loss": loss}, loss, torch.tensor(IDS), step=step)
    if is_bad:
        with pytest.raises(NumericsError) as found:
            guard.require_good(verdict)
        assert found.value.step == step
        raise found.value
    guard.require_good(verdict)


def guard_that_knows(losses, **changes):
    guard = make_guard(**changes)
    for step, loss in enumerate(losses):
        judge(guard, loss, step=step)
    return guard


def test_a_spike_is_named_with_its_samples_and_is_not_remembered():
    # Median 2.0, median absolute deviation 0.1, so a standard deviation of 0.14826.
    losses = [1.9, 2.0, 2.1] * 8
    guard = guard_that_knows(losses, spike_sigmas=5)
    judge(guard, 2.0 + 4.9 * 0.14826, step=24)
    with pytest.raises(
        NumericsError, match=r"loss at step 25 is 2\.75.*5 times 0\.15 above.*4, 8, 15"
    ):
        judge(guard, 2.0 + 5.1 * 0.14826, step=25)
    assert len(guard.state()["losses"]) == 25


def test_negative_losses_are_judged_alike():
    guard = guard_that_knows([-1.1, -1.0, -0.9] * 8, spike_sigmas=5)
    judge(guard, -0.8, step=24)
    with pytest.raises(NumericsError):
        judge(guard, 0.2, step=25)


@pytest.mark.parametrize("known", [0, 15])
def test_without_enough_losses_nothing_is_a_spike(known):
    guard = guard_that_knows([1.0] * known, spike_sigmas=2)
    judge(guard, 1e6, step=known)


def test_off_by_default():
    guard_that_knows([1.0] * 30 + [1e9])


def test_a_loss_that_is_not_finite_is_bad_and_not_remembered():
    guard = guard_that_knows([1.0] * 20, spike_sigmas=3)
    with pytest.raises(NumericsError, match="the loss is nan on rank 0 at step 20"):
        judge(guard, math.nan, step=20)
    assert len(guard.state()["losses"]) == 20


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=90), st.floats(0.1, 9))
def test_judgements_are_those_of_the_statistics_module(losses, sigmas):
    """Oracle: the definition in plain Python."""
    guard, known = make_guard(spike_sigmas=sigmas), deque(maxlen=64)
    for step, loss in enumerate(losses):
        median = statistics.median(known) if known else 0
        sigma = 1.4826 * statistics.median(abs(x - median) for x in known) if known else 0
        is_spike = len(known) >= 16 and loss > median + sigmas * sigma
        value = torch.tensor(loss, dtype=torch.float64)
        is_bad, _ = guard.judge({"loss": value}, value, torch.tensor(IDS), step=step)
        assert is_bad == is_spike
        if not is_spike:
            known.append(loss)
    assert guard.state()["losses"].tolist() == list(known)


def test_a_restored_guard_judges_like_the_one_that_was_saved():
    losses = np.random.default_rng(0).normal(2.0, 0.1, 200).tolist()
    losses[150] = 4.0
    verdicts = []
    for restart in (None, 100):
        guard, found = make_guard(spike_sigmas=6), []
        for step, loss in enumerate(losses):
            if step == restart:
                state = guard.state()
                guard = make_guard(spike_sigmas=6)
                guard.load_state(state)
            try:
                judge(guard, loss, step=step)
            except NumericsError as error:
                found.append(str(error))
        verdicts.append(found)
    assert verdicts[0] == verdicts[1]
    assert len(verdicts[0]) == 1


def test_only_so_many_batches_may_be_passed_over():
    guard = make_guard(max_bad_batches=3)
    guard.pass_over(5, 7, NumericsError("bad"))
    assert guard.passed_over == [5, 6, 7]
    with pytest.raises(NumericsError, match=r"bad\. 4 batches .* train\.max_bad_batches 3 allows"):
        guard.pass_over(9, 9, NumericsError("bad"))
