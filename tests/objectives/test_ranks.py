"""Oracle: one process on the same global batch; several ranks are real gloo processes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from oracles.toy import relative_error

CASES = Path(__file__).with_name("rank_cases.py")

CONFIGS = {
    "openclip": {"name": "openclip"},
    "detached": {"name": "neuclip", "alpha_mode": "detached"},
    "through": {"name": "neuclip", "alpha_mode": "through"},
}
# Eight prototypes and a batch of 12: the prototypes never are just the batch, whose fit would be
# exact, so that AdaGrad would act on rounding noise.
SMALL = {"num_prototypes": 8, "inner_steps": 3, "restart_every": 2, "eps": 1e-6, "inner_lr": 0.01}


def config_of(name):
    return CONFIGS[name] | (SMALL if name != "openclip" else {})


@pytest.fixture(scope="module")
def alone():
    spec = importlib.util.spec_from_file_location("rank_cases_alone", CASES)
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    return cases.train


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_P15_any_split_of_the_global_batch_gives_the_same_step(ranks, alone, name, size):
    expected = alone(config_of(name), 1)
    found = ranks.run(size, CASES, "train", config_of(name), 1)
    for answer in found:
        assert relative_error(answer["gradients"], expected["gradients"]) < 1e-11
        assert relative_error(answer["leaves"], expected["leaves"]) < 1e-12
        for key in ("network.prototypes_SMD", "network.squared_gradients_SMD"):
            if name != "openclip":
                assert relative_error(answer["state"][key], expected["state"][key]) < 1e-11
    for side in (0, 1):
        joined = torch.cat([answer["log_normalizers"][side] for answer in found])
        assert relative_error(joined, expected["log_normalizers"][side]) < 1e-11
    loss = torch.stack([answer["loss"] for answer in found]).mean()
    assert relative_error(loss, expected["loss"]) < 1e-12


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_P15_holds_over_steps_and_ranks_agree_to_the_bit(ranks, alone, name, size):
    expected = alone(config_of(name), 5)
    found = ranks.run(size, CASES, "train", config_of(name), 5)
    for answer in found:
        assert relative_error(answer["leaves"], expected["leaves"]) < 1e-9
        for key, value in answer["state"].items():
            assert torch.equal(value, found[0]["state"][key]), key


@pytest.mark.parametrize("name", list(CONFIGS))
def test_P15_in_float32(ranks, alone, name):
    expected = alone(config_of(name), 1, torch.float32)
    for answer in ranks.run(2, CASES, "train", config_of(name), 1, torch.float32):
        assert relative_error(answer["gradients"], expected["gradients"]) < 1e-5


def test_batches_of_unequal_size_are_refused(ranks):
    for rank, messages in enumerate(ranks.run(2, CASES, "changed_batches", config_of("openclip"))):
        unequal, changed = messages
        assert "rank 0: (3, 6), rank 1: (4, 6)" in unequal
        assert f"rank {rank}: expected features [4, 6]" in changed
        assert "found [5, 6]" in changed
