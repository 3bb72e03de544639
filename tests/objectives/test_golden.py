"""Golden data: the loss over twenty steps of a small run, for every objective and estimator.

A change of these numbers is a change of what is trained. To write them anew after a change that is
meant: NEUCLIP_WRITE_GOLDEN=1 pytest tests/objectives/test_golden.py, and say why in the commit.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from objectives.test_ranks import CONFIGS
from torch.nn.functional import normalize

from neuclip.objectives.registry import build

GOLDEN = Path(__file__).with_name("golden") / "losses.json"
# Prototypes from the index are encoded by the trainer: tests/objectives/test_index_source.py has their losses.
ALL = {name: config for name, config in CONFIGS.items() if name != "neuclip-index"}
ALL |= {"siglip": {"name": "siglip"}}
STEPS, BATCH, NUM_SAMPLES, WIDTH = 20, 16, 64, 8


def losses(config, dtype=torch.float32):
    """Linear encoders by AdamW on pairs that share a cause; the objective's state is float32."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(NUM_SAMPLES, 12, generator=generator)
    raw = [causes + 0.5 * torch.randn(NUM_SAMPLES, 12, generator=generator) for _ in range(2)]
    raw = [side.to(dtype) for side in raw]
    encoders = [
        torch.nn.Parameter((torch.randn(12, WIDTH, generator=generator) / 4).to(dtype))
        for _ in range(2)
    ]
    objective = build(config, feature_dim=WIDTH, num_samples=NUM_SAMPLES, seed=1)
    learned = [p for group in objective.trainable() for p in group.parameters]
    optimizer = torch.optim.AdamW([*encoders, *learned], lr=0.02)
    found = []
    for step in range(STEPS):
        ids = torch.randperm(NUM_SAMPLES, generator=generator)[:BATCH]
        sides = [normalize(r[ids] @ e, dim=1) for r, e in zip(raw, encoders, strict=True)]
        result = objective(*sides, ids)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        objective.advance(step + 1)
        found.append(result.loss.item())
    return found


@pytest.mark.parametrize("name", list(ALL))
def test_losses_are_those_of_before_and_repeat_to_the_bit(name):
    found = losses(ALL[name])
    assert losses(ALL[name]) == found
    if os.environ.get("NEUCLIP_WRITE_GOLDEN"):
        golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(golden | {name: found}, indent=1) + "\n")
    # Another processor adds in another order, and AdaGrad and Adam carry that on.
    assert found == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("name", list(ALL))
def test_float64_features_are_taken_without_a_word(name):
    """Oracle: the same run in float32."""
    found = losses(ALL[name], torch.float64)
    assert found[:3] == pytest.approx(losses(ALL[name])[:3], rel=1e-3, abs=1e-4)


def test_nothing_golden_is_left_without_its_test():
    assert json.loads(GOLDEN.read_text()).keys() == ALL.keys()
