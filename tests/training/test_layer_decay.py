"""Oracles: tables of layers by hand, timm's param_groups_layer_decay, the run without decay to the bit."""

import pytest
import timm
import timm.optim
import torch
from training.micro_batch_cases import make_batch, make_trainer
from training.runs import ARCHITECTURE

from neuclip.foundation.errors import ConfigError
from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers
from neuclip.training.optimiser import decays, lr_shares

DEEP = {
    **ARCHITECTURE,
    "vision_cfg": {**ARCHITECTURE["vision_cfg"], "layers": 3},
    "text_cfg": {**ARCHITECTURE["text_cfg"], "layers": 2},
}
# What the rate is multiplied by, as powers of the decay: part of a name -> layers above it.
VIT = {
    "visual.class_embedding": 4,
    "visual.positional_embedding": 4,
    "visual.conv1": 4,
    "visual.ln_pre": 4,
    "visual.transformer.resblocks.0": 3,
    "visual.transformer.resblocks.1": 2,
    "visual.transformer.resblocks.2": 1,
    "visual.ln_post": 0,
    "visual.proj": 0,
}
TEXT = {
    "positional_embedding": 3,
    "token_embedding": 3,
    "transformer.resblocks.0": 2,
    "transformer.resblocks.1": 1,
    "ln_final": 0,
    "text_projection": 0,
}
RESNET = {
    **dict.fromkeys([f"visual.{kind}{n}" for kind in ("conv", "bn") for n in (1, 2, 3)], 6),
    "visual.layer1.0": 5,
    "visual.layer1.1": 4,
    "visual.layer2.0": 3,
    "visual.layer3.0": 2,
    "visual.layer4.0": 1,
    "visual.attnpool": 0,
}
CONVNEXT = {
    "visual.trunk.stem": 5,
    **{f"visual.trunk.stages.{n}": 4 - n for n in range(4)},
    "visual.trunk.head": 0,
    "visual.head": 0,
}


def model_of(architecture):
    return create_towers(ModelConfig(architecture=architecture), seed=0).model


@pytest.mark.parametrize(
    ("vision", "table", "custom_text"),
    [
        (DEEP["vision_cfg"], VIT, False),
        (DEEP["vision_cfg"], VIT, True),
        ({"image_size": 32, "layers": [2, 1, 1, 1], "width": 8}, RESNET, False),
        ({"image_size": 32, "timm_model_name": "test_convnext"}, CONVNEXT, True),
    ],
    ids=["vit", "custom text", "resnet", "convnext"],
)
def test_each_layer_has_its_share_of_the_rate(vision, table, custom_text):
    model = model_of({**DEEP, "vision_cfg": vision, "custom_text": custom_text})
    text = {f"text.{name}" if custom_text else name: power for name, power in TEXT.items()}
    shares = lr_shares(model, 0.5)
    powers = {**table, **text}
    seen = set()
    for name, _ in model.named_parameters():
        if name.startswith("logit"):
            continue
        (own,) = [part for part in powers if f"{name}.".startswith((f"{part}.", f"{part}_"))]
        seen.add(own)
        assert shares[name] == 0.5 ** powers[own], name
    assert seen == powers.keys()


def test_a_vision_tower_of_timms_has_the_groups_of_timm():
    """But for the last norm, which timm counts to the last block, and BEiT, whose rule this is, to the head."""
    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_proj": "linear"}
    shares = lr_shares(model_of({**ARCHITECTURE, "vision_cfg": vision}), 0.7)
    with_head = timm.create_model("test_vit", num_classes=3)
    name_of = {id(p): name for name, p in with_head.named_parameters()}
    expected = {
        f"visual.trunk.{name_of[id(p)]}": group["lr_scale"]
        for group in timm.optim.param_groups_layer_decay(with_head, layer_decay=0.7)
        for p in group["params"]
        if not name_of[id(p)].startswith(("norm.", "fc_norm.", "head."))
    }
    assert {name: shares[name] for name in expected} == pytest.approx(expected)
    rest = [name for name in shares if name.startswith("visual.") and name not in expected]
    assert {shares[name] for name in rest} == {1.0}
    assert "visual.head.proj.weight" in rest
    assert len(rest) < 8


def trainer_of(**changes):
    return make_trainer(
        global_batch=8,
        vision=DEEP["vision_cfg"],
        lr=1e-2,
        warmup_steps=2,
        weight_decay=0.3,
        **changes,
    )


def steps(trainer, number=3):
    for step in range(number):
        batch = make_batch(trainer, step)
        rate = trainer.update(batch).lr
    trainer.settle()
    return rate


def test_the_optimiser_steps_at_these_rates_with_the_same_weight_decay():
    trainer = trainer_of(layer_decay=0.5)
    rate = steps(trainer)
    name_of = {id(p): name for name, p in trainer.towers.model.named_parameters()}
    shares = lr_shares(trainer.towers.model, 0.5)
    found = {}
    for group in trainer.optimiser.param_groups[:-1]:
        for p in group["params"]:
            name = found[id(p)] = name_of[id(p)]
            assert group["lr"] == rate * shares[name], name
            assert group["weight_decay"] == (0.3 if decays(name, p) else 0.0), name
    assert set(found.values()) == set(name_of.values()) - {"logit_scale"}
    (temperature,) = trainer.optimiser.param_groups[-1]["params"]
    assert temperature is trainer.objective.learned_temperature.log_scale
    assert trainer.optimiser.param_groups[-1]["lr"] == rate


@pytest.mark.parametrize("optimiser", ["adamw", "lamb", "lion", "sgd"])
def test_without_decay_the_groups_and_the_bits_are_those_of_two_groups(optimiser):
    plain, off = trainer_of(optimiser=optimiser), trainer_of(optimiser=optimiser, layer_decay=1)
    names = [
        [len(group["params"]) for group in trainer.optimiser.param_groups]
        for trainer in (plain, off)
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 3  # with decay, without, and the temperature
    steps(plain), steps(off)
    for name, tensor in plain.model_state().items():
        assert torch.equal(off.model_state()[name], tensor), name


def test_a_lower_share_is_a_smaller_step():
    """SGD's step is the rate times the gradient: the first one with decay is that without, times the share."""
    moved = {}
    for decay in (1.0, 0.5):
        trainer = trainer_of(layer_decay=decay, optimiser="sgd")
        before = trainer.model_state()
        before = {name: x.clone() for name, x in before.items()}
        steps(trainer, 1)
        moved[decay] = {n: x - before[n] for n, x in trainer.model_state().items()}
    for name, share in lr_shares(trainer.towers.model, 0.5).items():
        torch.testing.assert_close(
            moved[0.5][name], share * moved[1.0][name], rtol=1e-6, atol=1e-12
        )


def test_a_tower_that_is_no_list_of_blocks_is_refused():
    model = torch.nn.Module()
    model.visual = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"image tower .* is not a list of blocks"):
        lr_shares(model, 0.5)
    assert lr_shares(model, 1.0) == {"visual.weight": 1.0, "visual.bias": 1.0}
