"""Oracles: the weights before, to the bit; the run without anything frozen; names by hand."""

from pathlib import Path

import pytest
import torch
from oracles.rank_pool import shared_pool
from training.freezing_cases import train
from training.micro_batch_cases import make_batch, make_trainer, update
from training.runs import ARCHITECTURE, make_config

from neuclip.foundation.errors import ConfigError

CASES = Path(__file__).with_name("freezing_cases.py")
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
DEEP = {**ARCHITECTURE["vision_cfg"], "layers": 3, "patch_dropout": 0.5}
LIVELY = {"weight_decay": 0.5, "lr": 1e-2, "warmup_steps": 0, "ema_decay": 0.5}
OBJECTIVES = ("openclip", "siglip", "sogclr", "isogclr", "fastclip", "amorlip", "neuclip")


def is_image(name):
    return name.startswith("visual.")


def require_frozen(found, is_frozen):
    """Hold what `is_frozen` names to its bits, and see that the rest has moved."""
    for name, tensor in found["after"].items():
        if is_frozen(name):
            assert torch.equal(tensor, found["before"][name]), name
            assert torch.equal(found["published"][name], found["before"][name]), name
        elif tensor.is_floating_point() and not name.startswith("logit"):
            assert not torch.equal(tensor, found["before"][name]), name
    for names in ("learned", "with_gradient", "averaged"):
        assert found[names], names
        assert not [name for name in found[names] if is_frozen(name)], names


@pytest.mark.parametrize("vision", [None, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_frozen_image_tower_is_bit_equal_after_50_steps(vision, micro_batch):
    """Running statistics of batch norms too."""
    settings = {"global_batch": 8, "micro_batch": micro_batch, "vision": vision, **LIVELY}
    found = train({**settings, "freeze": {"image": "all"}}, 50)
    require_frozen(found, is_image)
    if vision:
        assert any(name.endswith("running_mean") for name in found["before"] if is_image(name))


def test_a_frozen_text_tower_is_bit_equal_after_50_steps():
    found = train({"global_batch": 8, "freeze": {"text": "all"}, **LIVELY}, 50)
    require_frozen(found, lambda name: not is_image(name) and not name.startswith("logit"))


def below_the_last_two(name):
    lowest = (
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.conv1",
        "visual.ln_pre",
    )
    return name.startswith((*lowest, "visual.transformer.resblocks.0."))


def test_all_but_the_last_blocks_stay():
    settings = {"global_batch": 8, "vision": DEEP, "freeze": {"image": {"all_but_last": 2}}}
    found = train({**settings, **LIVELY}, 10)
    require_frozen(found, below_the_last_two)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_beside_a_frozen_tower(name):
    for tower in ("image", "text"):
        found = train({"name": name, "global_batch": 8, "freeze": {tower: "all"}, **LIVELY}, 2)
        require_frozen(found, lambda n, t=tower: is_image(n) == (t == "image") and "logit" not in n)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("freeze", [{"image": "all"}, {"image": {"all_but_last": 2}}], ids=str)
def test_frozen_weights_are_in_no_message_between_ranks(parallel, freeze):
    settings = {
        "global_batch": 16,
        "vision": {**DEEP, "patch_dropout": 0.0},
        "freeze": freeze,
        **LIVELY,
    }
    is_frozen = is_image if freeze["image"] == "all" else below_the_last_two
    expected = train(settings, 4)
    for rank in shared_pool().run(2, CASES, "train", {**settings, "parallel": parallel}, 4):
        if rank["published"]:
            require_frozen(rank, is_frozen)
            for name, tensor in expected["after"].items():
                torch.testing.assert_close(rank["after"][name], tensor, rtol=0, atol=1e-7, msg=name)
        if parallel == "ddp":
            assert sum(rank["sent"]) == 4 * sum(expected["learned"].values())
        else:
            assert rank["shared_out"] == set(expected["learned"])


def test_frozen_parts_are_in_evaluation_mode_at_all_times():
    trainer = make_trainer(global_batch=8, vision=DEEP, freeze={"image": {"all_but_last": 2}})
    batch = make_batch(trainer)
    trainer.features_of(batch)
    trainer.update(batch)
    visual = trainer.towers.model.visual
    blocks = visual.transformer.resblocks
    still = [visual.conv1, visual.patch_dropout, visual.ln_pre, *blocks[0].modules()]
    assert not any(part.training for part in still)
    assert all(part.training for part in (visual, *blocks[1].modules(), visual.ln_post))
    assert trainer.towers.model.transformer.training


def test_patches_are_dropped_only_where_something_below_learns():
    batches = {}
    for freeze in (None, {"image": "all"}):
        trainer = make_trainer(global_batch=8, vision={**DEEP, "patch_dropout": 0.5}, freeze=freeze)
        batch = make_batch(trainer)
        expected = trainer.features_of(batch)[0]
        _, encoded, _ = update(trainer, batch)
        batches[str(freeze)] = torch.equal(encoded.images["main"].unit, expected)
    assert batches == {"None": False, "{'image': 'all'}": True}


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ({"image": "all", "text": "all"}, r"leaves nothing to train.*epochs: 0"),
        ({}, r"freeze names no tower"),
        ({"image": {"all_but_last": 0}}, r"all_but_last"),
        ({"image": "none"}, r"freeze\.image"),
    ],
)
def test_what_cannot_be_frozen_is_refused_with_the_recipe(freeze, message):
    with pytest.raises(ValueError, match=message):
        make_config(freeze=freeze)


@pytest.mark.parametrize(
    ("vision", "freeze", "message"),
    [
        (
            DEEP,
            {"image": {"all_but_last": 4}},
            r"image\.all_but_last is 4, .* has 3 blocks; give a",
        ),
        (None, {"text": {"all_but_last": 2}}, r"text\.all_but_last is 2, and the text tower has 1"),
    ],
)
def test_more_blocks_than_there_are_is_refused(vision, freeze, message):
    with pytest.raises(ConfigError, match=message):
        make_trainer(global_batch=8, vision=vision, freeze=freeze)
