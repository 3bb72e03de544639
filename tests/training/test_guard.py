"""Oracles: judgements worked out by hand; a state put back must judge as if nothing had happened."""

import math

import numpy as np
import pytest
from training.runs import make_config

from neuclip.foundation.errors import NumericsError
from neuclip.training.guard import LossGuard

IDS = [4, 8, 15]


def guard_that_knows(losses, **changes):
    guard = LossGuard(make_config(**changes))
    for step, loss in enumerate(losses):
        guard.judge(loss, step=step, sample_ids=IDS)
    return guard


def test_a_spike_is_named_with_its_samples_and_is_not_remembered():
    # Median 2.0, median absolute deviation 0.1, so a standard deviation of 0.14826.
    losses = [1.9, 2.0, 2.1] * 8
    guard = guard_that_knows(losses, spike_sigmas=5)
    guard.judge(2.0 + 4.9 * 0.14826, step=24, sample_ids=IDS)
    with pytest.raises(
        NumericsError, match=r"loss at step 25 is 2\.75.*5 times 0\.15 above.*4, 8, 15"
    ):
        guard.judge(2.0 + 5.1 * 0.14826, step=25, sample_ids=IDS)
    assert len(guard.state()["losses"]) == 25


def test_negative_losses_are_judged_alike():
    guard = guard_that_knows([-1.1, -1.0, -0.9] * 8, spike_sigmas=5)
    guard.judge(-0.8, step=24, sample_ids=IDS)
    with pytest.raises(NumericsError):
        guard.judge(0.2, step=25, sample_ids=IDS)


@pytest.mark.parametrize("known", [0, 15])
def test_without_enough_losses_nothing_is_a_spike(known):
    guard = guard_that_knows([1.0] * known, spike_sigmas=2)
    guard.judge(1e6, step=known, sample_ids=IDS)


def test_off_by_default():
    guard_that_knows([1.0] * 30 + [1e9])


def test_a_loss_that_is_not_finite_is_left_to_the_update_and_not_remembered():
    guard = guard_that_knows([1.0] * 20, spike_sigmas=3)
    guard.judge(math.nan, step=20, sample_ids=IDS)
    assert len(guard.state()["losses"]) == 20


def test_a_restored_guard_judges_like_the_one_that_was_saved():
    losses = np.random.default_rng(0).normal(2.0, 0.1, 200).tolist()
    losses[150] = 4.0
    verdicts = []
    for restart in (None, 100):
        guard, found = LossGuard(make_config(spike_sigmas=6)), []
        for step, loss in enumerate(losses):
            if step == restart:
                state = guard.state()
                guard = LossGuard(make_config(spike_sigmas=6))
                guard.load_state(state)
            try:
                guard.judge(loss, step=step, sample_ids=IDS)
            except NumericsError as error:
                found.append(str(error))
        verdicts.append(found)
    assert verdicts[0] == verdicts[1]
    assert len(verdicts[0]) == 1


def test_only_so_many_batches_may_be_passed_over():
    guard = LossGuard(make_config(max_bad_batches=3))
    guard.pass_over(5, 7, NumericsError("bad"))
    assert guard.passed_over == [5, 6, 7]
    with pytest.raises(NumericsError, match=r"bad\. 4 batches .* train\.max_bad_batches 3 allows"):
        guard.pass_over(9, 9, NumericsError("bad"))
