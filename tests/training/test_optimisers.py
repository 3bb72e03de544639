"""Oracles: torch's and timm's optimisers on parameters made by hand, open_clip's groups, the run without a break."""

import copy
import inspect

import open_clip_train.main
import pytest
import timm.optim
import torch
from training.micro_batch_cases import trainer_of
from training.runs import ARCHITECTURE, make_config
from training.test_parts import make_batch

from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers
from neuclip.training.optimiser import decays
from neuclip.training.saving import restore_trainer, take_snapshot, write_snapshot

NAMES = ("adamw", "lamb", "lion", "sgd")
RATE, DECAY, BETAS, EPS, MOMENTUM = 3e-3, 0.2, (0.8, 0.95), 1e-7, 0.7


def config_of(name, **changes):
    return make_config(
        optimiser=name,
        lr=RATE,
        weight_decay=DECAY,
        betas=BETAS,
        adam_eps=EPS,
        momentum=MOMENTUM,
        schedule="constant",
        warmup_steps=0,
        probe=None,
        **changes,
    )


def reference(name, groups):
    """The library's optimiser, told by hand what the recipe says."""
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPS, foreach=False)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, foreach=False)
    if name == "lion":
        return timm.optim.Lion(groups, lr=RATE, betas=BETAS, foreach=False)
    return timm.optim.Lamb(groups, lr=RATE, betas=BETAS, eps=EPS, max_grad_norm=None, foreach=False)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_the_library(name):
    trainer = trainer_of(config_of(name, grad_clip=None))
    named = dict(trainer.encoders.named_parameters())
    twins = {
        key: torch.nn.Parameter(p.detach().clone()) for key, p in named.items() if p.requires_grad
    }
    twin = reference(
        name,
        [
            {"params": [p for k, p in twins.items() if p.ndim >= 2], "weight_decay": DECAY},
            {"params": [p for k, p in twins.items() if p.ndim < 2], "weight_decay": 0.0},
        ],
    )
    for seed in range(3):
        batch = make_batch(trainer, seed)
        trainer.update(batch)
        for key, parameter in twins.items():
            parameter.grad = named[key].grad.clone()
        twin.step()
    for key, parameter in twins.items():
        torch.testing.assert_close(named[key], parameter, rtol=1e-6, atol=1e-8, msg=key)


def open_clips_rule():
    """The lambda `exclude` of open_clip_train.main, as it stands there."""
    (line,) = [
        line
        for line in inspect.getsource(open_clip_train.main).splitlines()
        if "exclude = " in line
    ]
    return eval(line.split("=", 1)[1])


@pytest.mark.parametrize(
    "vision",
    [
        ARCHITECTURE["vision_cfg"],
        {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
        {"image_size": 32, "timm_model_name": "mobilenetv3_small_050", "timm_proj": "linear"},
    ],
    ids=["vit", "resnet", "timm"],
)
def test_what_decays_is_what_decays_in_open_clip(vision):
    architecture = {**ARCHITECTURE, "vision_cfg": vision}
    towers = create_towers(ModelConfig(architecture=architecture), seed=0)
    is_left_out = open_clips_rule()
    parameters = dict(towers.model.named_parameters())
    found = {name for name, p in parameters.items() if decays(name, p)}
    assert found == {name for name, p in parameters.items() if not is_left_out(name, p)}
    assert 0 < len(found) < len(parameters)


def test_embeddings_decay_and_biases_gains_class_token_and_temperature_do_not():
    trainer = trainer_of(config_of("adamw"))
    decay_of = {
        id(p): group["weight_decay"]
        for group in trainer.optimiser.param_groups
        for p in group["params"]
    }
    named = dict(trainer.towers.model.named_parameters())
    for name in ("token_embedding.weight", "positional_embedding", "visual.proj"):
        assert decay_of[id(named[name])] == DECAY, name
    for name in ("visual.class_embedding", "ln_final.weight", "ln_final.bias"):
        assert decay_of[id(named[name])] == 0, name
    assert id(named["logit_scale"]) not in decay_of
    (temperature,) = trainer.objective.trainable()[0].parameters
    assert decay_of[id(temperature)] == 0


def everything(trainer):
    """All that later steps depend on."""
    average = trainer.average.state() if trainer.average else {}
    return {**trainer.model_state(), **average} | {
        f"objective {key}": value for key, value in trainer.objective.state_dict().items()
    }


def steps(trainer, seeds):
    for seed in seeds:
        batch = make_batch(trainer, seed)
        trainer.update(batch)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_trainer_goes_on_to_the_bit(tmp_path, name):
    config = config_of(name, ema_decay=0.7)
    whole, first, second = (trainer_of(config) for _ in range(3))
    steps(whole, range(5))
    steps(first, range(3))
    restore_trainer(
        second, write_snapshot(take_snapshot(first, train_key="k", scheduled=True), tmp_path)
    )
    steps(second, range(3, 5))
    expected, found = everything(whole), everything(second)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    before = everything(first)
    assert not torch.equal(before["visual.proj"], found["visual.proj"])


def test_a_forgotten_moment_would_be_seen(tmp_path):
    """The test above can fail: without the moments, or without LAMB's clock, the bits differ."""
    config = config_of("lamb", ema_decay=0.7)
    whole, first, second = (trainer_of(config) for _ in range(3))
    steps(whole, range(5))
    steps(first, range(3))
    folder = write_snapshot(take_snapshot(first, train_key="k", scheduled=True), tmp_path)
    restore_trainer(second, folder)
    for group in second.optimiser.param_groups:
        group["step"] = torch.zeros(())
    steps(second, range(3, 5))
    assert not torch.equal(everything(whole)["visual.proj"], everything(second)["visual.proj"])


def test_the_average_by_hand():
    trainer = trainer_of(config_of("sgd", ema_decay=0.3))
    name = "visual.proj"
    expected = trainer.model_state()[name].clone()
    for step in range(1, 6):
        steps(trainer, [step])
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trainer.model_state()[name]
    trainer.settle()
    torch.testing.assert_close(trainer.average.state()[name], expected, rtol=1e-5, atol=1e-7)
    raw = copy.deepcopy(trainer.model_state())
    with trainer.published_weights():
        torch.testing.assert_close(trainer.model_state()[name], expected, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(raw[key], value) for key, value in trainer.model_state().items())


def test_a_checkpoints_model_is_the_average_and_its_state_the_weights(tmp_path):
    from safetensors.torch import load_file

    trainer = trainer_of(config_of("adamw", ema_decay=0.9))
    steps(trainer, range(3))
    folder = write_snapshot(take_snapshot(trainer, train_key="k", scheduled=True), tmp_path)
    published = load_file(folder / "open_clip_model.safetensors")
    state = load_file(folder / "state.safetensors")
    averages = trainer.average.state()
    for name, value in averages.items():
        assert torch.equal(published[name], value), name
        assert torch.equal(state[f"model/{name}"], trainer.model_state()[name]), name
    assert not torch.equal(published["visual.proj"], state["model/visual.proj"])
    assert published.keys() == trainer.model_state().keys()
