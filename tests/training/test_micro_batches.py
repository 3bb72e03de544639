"""Oracle: the whole batch in one graph, by the trainer without micro-batches or by autograd itself."""

import copy
import math
from pathlib import Path

import pytest
import torch
from oracles.rank_pool import shared_pool
from pydantic import ValidationError
from training.micro_batch_cases import make_batch, make_trainer, train
from training.runs import ARCHITECTURE, make_config

from neuclip.foundation.errors import NumericsError
from neuclip.loading.visits import MAIN
from neuclip.objectives.registry import KNOWN
from neuclip.training.feature_cache import tensors_of

CASES = Path(__file__).with_name("micro_batch_cases.py")
DROPS_PATCHES = {**ARCHITECTURE["vision_cfg"], "patch_dropout": 0.5}
OBJECTIVES = (*KNOWN, "neuclip, mixed", "neuclip, adapted")
HAS_BATCH_NORM = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}


def require_close(found, expected):
    """Hold every tensor of a dict against the one of the same name: max |a - b| <= 1e-6 max |b|."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            require_close(found[key], value)
            continue
        is_finite = value.isfinite()  # a sample that was never seen may have log 0
        assert torch.equal(found[key][~is_finite], value[~is_finite]), key
        if is_finite.any():
            difference = (found[key][is_finite].double() - value[is_finite].double()).abs().max()
            assert difference <= 1e-6 * value[is_finite].double().abs().max(), key


def gradients(trainer):
    named = [*trainer.encoders.named_parameters(), *trainer.objective.named_parameters()]
    return {key: parameter.grad for key, parameter in named if parameter.grad is not None}


@pytest.fixture
def seeds(monkeypatch):
    """The seeds given to torch from here on."""
    given, seed = [], torch.manual_seed

    def record(number):
        given.append(number)
        return seed(number)

    monkeypatch.setattr(torch, "manual_seed", record)
    return given


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_eight_micro_batches_give_the_gradient_and_state_of_the_whole(name, num_steps):
    expected = train(name, num_steps, {"global_batch": 256})
    found = train(name, num_steps, {"global_batch": 256, "micro_batch": 32})
    require_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_with_micro_batches_take_the_steps_of_one_without(name):
    expected = train(name, 2, {"global_batch": 64})
    sizes = {"global_batch": 64, "micro_batch": 8}
    for answer in shared_pool().run(2, CASES, "train", name, 2, sizes):
        require_close(answer["gradients"], expected["gradients"])
        require_close(answer["parameters"], expected["parameters"])


def test_both_passes_draw_the_same_numbers(seeds):
    trainer = make_trainer(global_batch=32, micro_batch=8, vision=DROPS_PATCHES)
    batch = make_batch(trainer)
    twin, objective = copy.deepcopy(trainer.encoders), copy.deepcopy(trainer.objective)
    seeds.clear()
    seen = []

    def look(encoded, _):
        torch.rand(5)  # somebody else draws in between
        seen.append(encoded.images[MAIN].unit)

    trainer.update(batch, look)
    first, second = seeds[:4], seeds[4:]
    assert first == second
    assert len(set(first)) == 4

    parts = []
    for number, images, tokens in zip(
        first, batch.images[MAIN].split(8), batch.texts[MAIN].split(8), strict=True
    ):
        torch.manual_seed(number)
        parts.append([side[MAIN].unit for side in twin.train()({MAIN: images}, {MAIN: tokens})])
    image_features, text_features = (torch.cat(side) for side in zip(*parts, strict=True))
    assert torch.equal(seen[0], image_features)
    objective(image_features, text_features, batch.sample_ids).loss.backward()
    expected = dict(twin.named_parameters()) | dict(objective.named_parameters())
    require_close(gradients(trainer), {k: p.grad for k, p in expected.items() if p.requires_grad})


def test_both_passes_give_the_same_features_under_autocast():
    trainer = make_trainer(
        global_batch=32, micro_batch=8, precision="bf16", dtype=torch.float32, vision=DROPS_PATCHES
    )
    batch, outputs = make_batch(trainer), []
    trainer.encoders.register_forward_hook(lambda *call: outputs.append(call[-1]))
    in_bf16 = []
    trainer.towers.model.visual.transformer.resblocks[0].mlp.c_fc.register_forward_hook(
        lambda *call: in_bf16.append(call[-1].dtype == torch.bfloat16)
    )
    trainer.update(batch)
    assert in_bf16 == [True] * 8
    for first, second in zip(outputs[:4], outputs[4:], strict=True):
        before, after = tensors_of(first), tensors_of(second)
        assert not any(tensor.requires_grad for tensor in before)
        assert all(tensor.requires_grad for tensor in after)
        assert len(before) == 4
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_micro_batches_steps_and_ranks_draw_apart_and_the_first_as_the_whole_batch(seeds):
    trainer = make_trainer(global_batch=8, micro_batch=2, seed=2**32 - 1)
    whole = make_trainer(global_batch=8, seed=7)
    batch = make_batch(trainer)
    seeds.clear()
    for trainer.step in range(3):
        trainer.update(batch)
    assert len(set(seeds)) == 12
    seeds.clear()
    whole.step = 5
    whole.update(batch)
    assert seeds == [(7 * 1_000_003 + 5) * 1_000_003]


def test_running_statistics_take_in_each_micro_batch_once():
    trainer = make_trainer(global_batch=32, micro_batch=8, vision=HAS_BATCH_NORM)
    batch = make_batch(trainer)
    twin = copy.deepcopy(trainer.encoders).train()
    before = {key: buffer.clone() for key, buffer in trainer.encoders.named_buffers()}

    def look(*_):
        for key, buffer in trainer.encoders.named_buffers():
            assert torch.equal(buffer, before[key]), key

    trainer.update(batch, look)
    for images, tokens in zip(batch.images[MAIN].split(8), batch.texts[MAIN].split(8), strict=True):
        twin({MAIN: images}, {MAIN: tokens})
    after = dict(trainer.encoders.named_buffers())
    assert after["model.visual.bn1.num_batches_tracked"] == 4
    assert not torch.equal(
        after["model.visual.bn1.running_mean"], before["model.visual.bn1.running_mean"]
    )
    for key, expected in twin.named_buffers():
        assert torch.equal(after[key], expected), key


class Held:
    """What autograd keeps of a tensor for the backward pass, with the bytes that are alive at once."""

    alive = most = 0

    def __init__(self, tensor):
        self.tensor = tensor
        Held.alive += tensor.nbytes
        Held.most = max(Held.most, Held.alive)

    def __del__(self):
        Held.alive -= self.tensor.nbytes


def most_bytes_in_graphs(trainer):
    """Return the peak over a step of what graphs hold, weights left out."""
    batch = make_batch(trainer)
    weights = {p.untyped_storage().data_ptr() for p in trainer.encoders.parameters()}

    def pack(tensor):
        return tensor if tensor.untyped_storage().data_ptr() in weights else Held(tensor)

    def unpack(held):
        return held.tensor if isinstance(held, Held) else held

    Held.alive = Held.most = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        in_forward = []
        trainer.update(batch, lambda *_: in_forward.append(Held.most))
    return in_forward[0], Held.most


def test_the_graph_of_one_micro_batch_is_alive_at_once():
    whole = most_bytes_in_graphs(make_trainer(global_batch=64))[1]
    one = most_bytes_in_graphs(make_trainer(global_batch=8))[1]
    in_forward, most = most_bytes_in_graphs(make_trainer(global_batch=64, micro_batch=8))
    assert whole > 7 * one
    assert most < 1.2 * one
    assert in_forward < 0.1 * whole  # the objective's graph alone


def spoil(trainer, encoded, what):
    """Make a gradient not finite although the loss is."""
    tensor = {
        "features": lambda: encoded.texts[MAIN].unit,
        "objective": lambda: trainer.objective.learned_temperature.log_scale,
    }[what]()
    tensor.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize(
    ("what", "micro_batch"), [("features", 4), ("objective", 4), ("objective", None)]
)
def test_a_gradient_that_is_not_finite_stops_before_the_update(what, micro_batch):
    trainer = make_trainer(global_batch=16, micro_batch=micro_batch)
    batch = make_batch(trainer)
    before = copy.deepcopy([*trainer.encoders.parameters(), *trainer.objective.parameters()])
    trainer.update(batch, lambda encoded, _: spoil(trainer, encoded, what))
    with pytest.raises(NumericsError, match=rf"{what}.* is (inf|nan) on rank 0 at step 0"):
        trainer.settle()
    after = [*trainer.encoders.parameters(), *trainer.objective.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("processes", "micro_batch"), [(1, 5), (2, 16), (4, 8)])
def test_a_micro_batch_that_does_not_divide_the_share_of_a_process_is_refused(
    processes, micro_batch
):
    with pytest.raises(ValidationError) as caught:
        make_config(global_batch=16, launch={"processes": processes}, micro_batch=micro_batch)
    assert f"global_batch 16 / ranks {processes} = {16 // processes} " in str(caught.value)
    assert f"micro_batch {micro_batch};" in str(caught.value)


def test_a_micro_batch_is_part_of_the_key():
    assert make_config(micro_batch=4).keyed() != make_config().keyed()
