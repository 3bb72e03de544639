"""Oracle: one process on the same global batch; several ranks are real gloo processes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from oracles.rank_pool import RankPool
from oracles.toy import relative_error

CASES = Path(__file__).with_name("rank_cases.py")

# Eight prototypes and a batch of 12: the prototypes never are just the batch, whose fit would be
# exact, so that AdaGrad would act on rounding noise.
NETWORK = {
    "name": "network",
    "num_prototypes": 8,
    "inner_steps": 3,
    "restart_every": 2,
    "inner_lr": 0.01,
}
AGED = {"name": "aged_queue", "num_pairs": 30, "first_block": 8}
NEUCLIP = {"name": "neuclip", "eps": 1e-6, "rho": 6.5, "ratio_clamp": 20, "estimator": NETWORK}
CONFIGS = {
    "openclip": {"name": "openclip"},
    "sogclr": {"name": "sogclr", "eps": 1e-6},
    "isogclr": {"name": "isogclr", "eps": 1e-6, "temperature_init": 0.2, "temperature_lr": 1e-3},
    "fastclip-v0": {"name": "fastclip", "version": "v0", "gamma_decay_epochs": 2},
    "fastclip-v1": {"name": "fastclip", "version": "v1", "gamma_decay_epochs": 2},
    "fastclip-v2": {
        "name": "fastclip",
        "version": "v2",
        "gamma_decay_epochs": 2,
        "individual_temperature_init": 0.2,
        "individual_temperature_lr": 1e-3,
    },
    "fastclip-v3": {"name": "fastclip", "gamma_decay_epochs": 2, "tau_exp_weight": 2},
    "amorlip": {"name": "amorlip", "late_rho_from_epoch": 1, "smoothing_epochs": 2},
    "neuclip": NEUCLIP,
    "neuclip-through": NEUCLIP | {"alpha_mode": "through"},
    "neuclip-offset": NEUCLIP | {"estimator": NETWORK | {"offset_decay": 0.9}},
    "neuclip-batch": NEUCLIP | {"estimator": NETWORK | {"source": "batch"}},
    "neuclip-index": NEUCLIP | {"estimator": NETWORK | {"source": "index"}},
    "neuclip-queue": NEUCLIP | {"estimator": {"name": "queue", "num_pairs": 30}},
    "neuclip-aged": NEUCLIP | {"estimator": AGED},
    "neuclip-mixed": {
        "name": "neuclip",
        "eps": 1e-6,
        "estimator": NETWORK,
        "gamma": 0.4,
        "tau_exp_weight": 2,
        "temperature_lr_share": 0.5,
    },
    "neuclip-adapted": {"name": "neuclip", "eps": 1e-6, "estimator": AGED, "gamma": "auto"},
}
ALL = {
    **{f"{name}, gather": config for name, config in CONFIGS.items()},
    **{f"{name}, two_role": config | {"reduction": "two_role"} for name, config in CONFIGS.items()},
    "siglip, ring": {"name": "siglip", "exchange": "ring"},
    "siglip, gather": {"name": "siglip", "exchange": "gather"},
}


@pytest.fixture(scope="module")
def cases():
    spec = importlib.util.spec_from_file_location("rank_cases_alone", CASES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_states_equal(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            is_finite = torch.isfinite(value)
            assert torch.equal(torch.isfinite(found[name]), is_finite), name
            if value[is_finite].abs().sum() > 0:
                error = relative_error(found[name][is_finite], value[is_finite])
                assert error < tolerance, (name, error)
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", list(ALL))
def test_P15_any_split_of_the_global_batch_gives_the_same_steps(ranks, cases, name, size):
    for num_steps, tolerance in ((1, 1e-11), (5, 1e-8)):
        expected = cases.train(ALL[name], num_steps)
        found = ranks.run(size, CASES, "train", ALL[name], num_steps)
        for answer in found:
            assert relative_error(answer["gradients"], expected["gradients"]) < tolerance
            assert relative_error(answer["leaves"], expected["leaves"]) < tolerance
            assert_states_equal(answer["state"], expected["state"], tolerance)
            assert (answer["predicted"] is None) == (expected["predicted"] is None)
            assert (
                relative_error(answer["scale"], expected["scale"]) < tolerance
            )  # the trainer divides by it
            for key, value in answer["state"].items():
                assert torch.equal(value, found[0]["state"][key]), key  # ranks agree to the bit
        if expected["log_normalizers"] is not None:
            for side in (0, 1):
                joined = torch.cat([answer["log_normalizers"][side] for answer in found])
                assert relative_error(joined, expected["log_normalizers"][side]) < tolerance
        loss = torch.stack([answer["loss"] for answer in found]).mean()
        assert relative_error(loss, expected["loss"]) < tolerance


@pytest.mark.parametrize("name", list(ALL))
def test_a_sample_twice_in_the_batch_is_the_same_on_any_split(ranks, cases, name):
    expected = cases.train(ALL[name], 2, has_twins=True)
    found = ranks.run(2, CASES, "train_with_twins", ALL[name], 2)
    for answer in found:
        assert relative_error(answer["gradients"], expected["gradients"]) < 1e-10


QUICK_IN_BLOCKS = ("openclip, two_role", "fastclip-v2, gather", "neuclip, two_role", "siglip, ring")


@pytest.mark.parametrize(
    "name", [n if n in QUICK_IN_BLOCKS else pytest.param(n, marks=pytest.mark.slow) for n in ALL]
)
def test_P15_in_blocks(ranks, cases, name):
    expected = cases.train(ALL[name], 3)
    for answer in ranks.run(2, CASES, "train_in_blocks", ALL[name], 3):
        assert relative_error(answer["gradients"], expected["gradients"]) < 1e-8
        assert_states_equal(answer["state"], expected["state"], 1e-8)


@pytest.mark.parametrize("name", list(ALL))
def test_P15_in_float32(ranks, cases, name):
    expected = cases.train(ALL[name], 1, torch.float32)
    for answer in ranks.run(2, CASES, "train", ALL[name], 1, torch.float32):
        assert relative_error(answer["gradients"], expected["gradients"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if "gather" in name])
def test_a_state_saved_by_one_rank_is_taken_by_three_and_back(ranks, cases, name):
    state = cases.train(ALL[name], 5)["raw_state"]
    expected = cases.resume(ALL[name], state, 2)
    for first, last in ranks.run(3, CASES, "resume", ALL[name], state, 2):
        assert_states_equal(first, expected[0], 1e-15)
        assert_states_equal(last, expected[1], 1e-9)


@pytest.mark.parametrize("name", ["openclip, gather", "fastclip-v2, two_role", "siglip, ring"])
def test_features_that_are_not_finite_stop_all_ranks_before_any_state_changes(ranks, name):
    for message, is_same in ranks.run(2, CASES, "not_finite", ALL[name]):
        assert "2 samples are not finite at step 1 on rank 1: sample ids [27, 29]" in message
        assert is_same


def test_batches_of_unequal_size_are_refused(ranks):
    answers = ranks.run(2, CASES, "changed_batches", CONFIGS["openclip"])
    for rank, messages in enumerate(answers):
        unequal, changed = messages
        assert "rank 0: (3, 6), rank 1: (4, 6)" in unequal
        assert f"rank {rank}: expected features [4, 6]" in changed
        assert "found [5, 6]" in changed


@pytest.fixture
def fresh_ranks():
    """Processes that have had no process group: torch's own gather keeps the first it meets."""
    pool = RankPool(2)
    yield pool
    pool.close()


@pytest.mark.parametrize("name", ["openclip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_two_ranks_equal_open_clip_in_float32(fresh_ranks, name):
    """Oracle: open_clip's ClipLoss (local loss, gather with gradient) and SigLipLoss."""
    for theirs, ours in fresh_ranks.run(2, CASES, "open_clip_loss", name):
        assert relative_error(ours[0], theirs[0]) < 1e-6
        assert relative_error(ours[1], theirs[1]) < 1e-6
