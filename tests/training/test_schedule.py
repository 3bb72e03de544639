"""Oracle: open_clip's own schedulers, and the formula by hand."""

import pytest
import torch
from open_clip_train import scheduler
from pydantic import ValidationError
from training.runs import make_config

from neuclip.training.schedule import learning_rate

WARMUP, TOTAL, COOLDOWN = 7, 60, 20


def optimiser():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def rates(**settings):
    common = {"peak": 2e-3, "warmup_steps": WARMUP, "total_steps": TOTAL}
    return [learning_rate(step, **common, **settings) for step in range(TOTAL)]


def test_cosine_at_every_step():
    theirs = scheduler.cosine_lr(optimiser(), 2e-3, WARMUP, TOTAL)
    assert rates(least=0.0) == pytest.approx([theirs(step) for step in range(TOTAL)], rel=1e-12)


def test_constant_at_every_step():
    theirs = scheduler.const_lr(optimiser(), 2e-3, WARMUP, TOTAL)
    found = rates(least=0.0, schedule="constant")
    assert found == pytest.approx([theirs(step) for step in range(TOTAL)], rel=1e-12)


@pytest.mark.parametrize(("power", "least"), [(1.0, 0.0), (2.5, 0.0), (0.5, 3e-4)])
def test_constant_with_cooldown_at_every_step(power, least):
    theirs = scheduler.const_lr_cooldown(
        optimiser(), 2e-3, WARMUP, TOTAL, COOLDOWN, cooldown_power=power, cooldown_end_lr=least
    )
    found = rates(least=least, schedule="constant", cooldown_steps=COOLDOWN, cooldown_power=power)
    assert found == pytest.approx([theirs(step) for step in range(TOTAL)], rel=1e-12)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.5 + 0.5 * 0.1), (110, 0.1)],
)
def test_warm_up_then_half_a_cosine_down_to_the_least(step, expected):
    rate = learning_rate(step, peak=1.0, least=0.1, warmup_steps=10, total_steps=110)
    assert rate == pytest.approx(expected)


def test_a_cosine_has_no_cooldown():
    with pytest.raises(ValidationError, match="cooldown_steps 5"):
        make_config(cooldown_steps=5)
    assert make_config(schedule="constant", cooldown_steps=5).cooldown_steps == 5
