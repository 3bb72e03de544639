"""Oracle: one process without any layout; a restored run's oracle is the run without a break."""

import shutil
from pathlib import Path

import pytest
import torch
from oracles.rank_pool import shared_pool
from training.micro_batch_cases import make_batch, make_trainer
from training.parallel_cases import train

from neuclip.foundation.errors import ConfigError
from neuclip.training.trainer import Trainer

CASES = Path(__file__).with_name("parallel_cases.py")
CLIPPED = {"global_batch": 32, "grad_clip": {"kind": "norm", "norm": 0.05}}
HAS_BATCH_NORM = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
STEPS = list(range(4))


def on_two_ranks(settings, steps=STEPS, **places):
    return shared_pool().run(2, CASES, "train_with", settings, steps, places)


def require_same_curve(ranks, expected, *, rtol=1e-9):
    losses = [sum(pair) / len(pair) for pair in zip(*(r["losses"] for r in ranks), strict=True)]
    assert losses == pytest.approx(expected["losses"], rel=rtol)
    for answer in ranks:
        assert answer["norms"] == pytest.approx(expected["norms"], rel=rtol)


def require_close(found, expected, *, atol):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("optimiser", ["adamw", "lamb", "lion", "sgd"])
def test_two_ranks_take_the_steps_of_one_under_each_layout(parallel, optimiser):
    settings = {**CLIPPED, "optimiser": optimiser, "ema_decay": 0.5}
    expected = train(settings, STEPS)
    ranks = on_two_ranks({**settings, "parallel": parallel})
    require_same_curve(ranks, expected)
    assert min(expected["norms"]) > CLIPPED["grad_clip"]["norm"]
    if (
        optimiser != "lion"
    ):  # whose sign makes a full step of the rounding in a gradient that is 0 (a key's bias)
        require_close(ranks[0]["state"], expected["state"], atol=1e-8)
        require_close(ranks[0]["weights"], expected["weights"], atol=1e-8)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_limit_by_the_median_as_one_does(parallel):
    settings = {**CLIPPED, "grad_clip": {"kind": "median", "times": 0.01}, "optimiser": "sgd"}
    expected = train(settings, STEPS)
    ranks = on_two_ranks({**settings, "parallel": parallel})
    require_same_curve(ranks, expected)
    require_close(ranks[0]["weights"], expected["weights"], atol=1e-8)
    free = train({**settings, "grad_clip": None}, STEPS)
    assert (
        free["norms"][:2] == expected["norms"][:2]
    )  # the first update is not limited, the second is
    assert free["norms"][2] != expected["norms"][2]


@pytest.mark.parametrize("name", ["neuclip", "fastclip", "siglip"])
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_fsdp_serves_other_objectives_and_micro_batches(name, micro_batch):
    settings = {**CLIPPED, "name": name}
    expected = train(settings, STEPS)
    ranks = on_two_ranks({**settings, "parallel": "fsdp", "micro_batch": micro_batch})
    require_close(ranks[0]["model"], expected["model"], atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [None, 0.7])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_scoring_on_the_way_sees_the_published_weights_and_changes_nothing(parallel, ema_decay):
    settings = {**CLIPPED, "ema_decay": ema_decay}
    expected = train(settings, STEPS, looks=True)
    laid_out = {**settings, "parallel": parallel}
    found, unseen = on_two_ranks(laid_out, looks=True), on_two_ranks(laid_out)
    half = expected["seen"].shape[1] // len(STEPS) // 2
    for rank, answer in enumerate(found):
        share = expected["seen"].unflatten(1, (len(STEPS), 2, half))[:, :, rank].flatten(1, 2)
        torch.testing.assert_close(answer["seen"], share, rtol=0, atol=1e-6)
        for name, value in unseen[rank]["model"].items():
            assert torch.equal(answer["model"][name], value), name


def test_fsdp_holds_a_share_of_the_weights():
    settings = {"global_batch": 16}
    whole = on_two_ranks(settings, [0])[0]["own_bytes"]
    share = on_two_ranks({**settings, "parallel": "fsdp"}, [0])[0]["own_bytes"]
    assert share < 0.55 * whole


def test_a_checkpoint_is_the_same_under_each_layout_and_goes_on_under_each(tmp_path):
    """Bits on the same layout; rounding between layouts."""
    settings = {**CLIPPED, "optimiser": "lamb", "ema_decay": 0.5}
    fsdp = {**settings, "parallel": "fsdp"}
    expected = train(settings, STEPS)
    undisturbed = on_two_ranks(fsdp)[0]
    one = train(settings, STEPS[:2], save=tmp_path / "one")
    two = on_two_ranks(fsdp, STEPS[:2], save=str(tmp_path / "two"))[0]
    require_close(two["state"], one["state"], atol=1e-9)
    assert {k: (x.shape, x.dtype) for k, x in two["state"].items()} == {
        k: (x.shape, x.dtype) for k, x in one["state"].items()
    }
    from_one = on_two_ranks(fsdp, STEPS[2:], restore=str(one["folder"]))
    from_two = on_two_ranks(fsdp, STEPS[2:], restore=str(two["folder"]))
    back_to_one = train(settings, STEPS[2:], restore=two["folder"])
    for state in (from_one[0]["state"], from_two[0]["state"], back_to_one["state"]):
        require_close(state, expected["state"], atol=1e-8)
    for key, value in undisturbed["state"].items():
        assert torch.equal(from_two[0]["state"][key], value), key


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("what", ["loss", "temperature"])
def test_what_is_not_finite_on_one_rank_stops_both_before_the_update(parallel, what):
    settings = {"global_batch": 16, "parallel": parallel}
    for message, is_same, step in shared_pool().run(2, CASES, "spoiled", settings, 1, what):
        assert is_same
        assert step == 0  # of the bad batch
        if what == "loss":
            assert "loss is nan on rank 1 at step 0, sample ids [8, 9, 10" in message
            assert "rank 0" not in message
        else:  # averaged over ranks by then
            assert "objective's parameters is inf on rank 0" in message
            assert "on rank 1" in message


def test_batch_norms_are_refused_where_they_would_part_ranks_or_count_twice():
    for changes, word in (
        ({"parallel": "fsdp"}, "running statistics"),
        ({"grad_checkpointing": True}, "for transformers"),
    ):
        with pytest.raises(ConfigError, match=word):
            make_trainer(global_batch=8, vision=HAS_BATCH_NORM, **changes)


def bytes_kept_for_backward(trainer: Trainer) -> int:
    kept, in_forward = 0, []

    def pack(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.update(make_batch(trainer), lambda *_: in_forward.append(kept))
    return in_forward[0]


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("processes", [1, 2])
def test_gradient_checkpointing_changes_memory_and_nothing_else(micro_batch, processes):
    settings = {**CLIPPED, "micro_batch": micro_batch}
    less = {**settings, "grad_checkpointing": True}
    if processes == 1:
        expected, found = train(settings, STEPS), train(less, STEPS)
        kept = bytes_kept_for_backward(make_trainer(**CLIPPED))
        assert bytes_kept_for_backward(make_trainer(**CLIPPED, grad_checkpointing=True)) < kept / 2
    else:
        expected = on_two_ranks(settings)[0]
        found = on_two_ranks({**less, "parallel": "fsdp"})[0]
    require_close(found["model"], expected["model"], atol=1e-9)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo looks at activations
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
@pytest.mark.parametrize("more", [{}, {"micro_batch": 8}, {"grad_checkpointing": True}], ids=str)
def test_compiled_blocks_give_the_losses_of_plain_ones(more):
    settings = {"global_batch": 32, "dtype": torch.float32, **more}
    expected = train(settings, STEPS)
    found = train({**settings, "compile": True}, STEPS)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 2  # an image block and a text block
    assert found["model"].keys() == expected["model"].keys()
