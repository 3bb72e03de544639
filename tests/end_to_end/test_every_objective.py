"""Every objective from its first step to a published folder, killed on the way. Oracles: the run that nothing
disturbed, and open_clip on what was published."""

import io
import os
import signal
import threading
import time
from pathlib import Path

import open_clip
import pytest
import torch
from end_to_end.adopted_journey import NAMES, Trial, make_inputs
from PIL import Image
from safetensors.torch import load_file
from towers.tiny import TINY, picture
from training.runs import kill_rank_when, make_config, make_packed, metrics, train_here, weights

from neuclip.checkpoint.state import load_state
from neuclip.foundation.errors import NeuclipError, StoppedError
from neuclip.objectives.registry import KNOWN
from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.folder import load_towers

NETWORK = {"name": "network", "num_prototypes": 32, "inner_steps": 2, "restart_every": 5}
QUEUE = {"name": "queue", "num_pairs": 40}
AGED = {"name": "aged_queue", "num_pairs": 40, "first_block": 8}
BIASED = {**TINY, "init_logit_bias": -10.0}


def neuclip_with(estimator, **more):
    return {"objective": {"name": "neuclip", "estimator": estimator, **more}}


def named(name, **more):
    return {"objective": {"name": name, **more}}


CASES = {
    "openclip": named("openclip"),
    "openclip, two roles": named("openclip", reduction="two_role"),
    "openclip, constant temperature": named("openclip", learn_temperature=False),
    "openclip, an architecture with a bias": named("openclip") | {"model.architecture": BIASED},
    "siglip": named("siglip", temperature_lr=0.05),
    "siglip, gathered": named("siglip", exchange="gather", temperature_lr=0.05),
    "siglip, an architecture with a bias": named("siglip", bias_init=-5.0, temperature_lr=0.05)
    | {"model.architecture": BIASED},
    "siglip, scale and bias as vectors": named("siglip", temperature_lr=0.05)
    | {"model.architecture": {**BIASED, "nonscalar_logit_scale": True}},
    "sogclr": named("sogclr"),
    "isogclr": named("isogclr"),
    **{f"fastclip {v}": named("fastclip", version=v) for v in ("v0", "v1", "v2", "v3")},
    "fastclip v3, tau twice": named("fastclip", version="v3", tau_exp_weight=2),
    "amorlip": named("amorlip"),
    "amorlip, target": named("amorlip", encoder_normalizer="target"),
    "amorlip, two roles": named("amorlip", reduction="two_role", late_rho_from_epoch=1),
    "amorlip, nothing fitted": named("amorlip", inner_steps=0, own_pair_weight=0),
    "amorlip, smoothed at once": named("amorlip", smoothing_epochs=1, average_every=1),
    "network, recent": neuclip_with(NETWORK),
    "network, batch": neuclip_with(NETWORK | {"source": "batch"}),
    "network, index": neuclip_with(NETWORK | {"source": "index"}),
    "network, offset": neuclip_with(NETWORK | {"offset_decay": 0.9}),
    "network, bf16": neuclip_with(NETWORK | {"fit_precision": "bf16", "mask_own_pair": False}),
    "network, nothing fitted": neuclip_with(NETWORK | {"inner_steps": 0}),
    "network, through": neuclip_with(NETWORK, alpha_mode="through", ratio_clamp=None),
    "network, adapted": neuclip_with(NETWORK, gamma="auto")
    | {"grad_clip": {"kind": "median", "times": 1.5}},
    "queue": neuclip_with(QUEUE),
    "aged queue": neuclip_with(AGED),
    "siglip, averaged": named("siglip", temperature_lr=0.05) | {"ema_decay": 0.9},
    "amorlip, micro-batches": named("amorlip") | {"micro_batch": 4},
    "isogclr, micro-batches and averaged": named("isogclr") | {"micro_batch": 8, "ema_decay": 0.9},
    "siglip, fsdp": named("siglip", temperature_lr=0.05) | {"parallel": "fsdp"},
    "amorlip, probed": named("amorlip")
    | {"probe": {"every_steps": 3, "samples": 40, "anchors": 8}},
    "amorlip, as an observer": named("openclip")
    | {
        "probe": {
            "every_steps": 3,
            "samples": 40,
            "anchors": 8,
            "observers": {"amorlip": {"name": "amorlip"}},
        }
    },
}
OWN_WAY = ("siglip, fsdp", "isogclr", "amorlip, micro-batches", "network, index")
"""A bias, numbers for every sample, networks, and prototypes that are asked for: three starts of training take a while,
and all cases are stopped in this process above."""
QUICK = ("amorlip", "siglip", "isogclr", "network, index")


def test_no_objective_is_left_out():
    assert {case["objective"]["name"] for case in CASES.values()} == set(KNOWN)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return make_packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(packed, tmp_path, name):
    """In this process: the loop, its checkpoints, and what they publish."""
    case = CASES[name]
    settings = {"probe": None, "model": {"architecture": TINY}, **case}
    if "model.architecture" in settings:
        settings["model"] = {"architecture": settings.pop("model.architecture")}
    config = make_config(epochs=2, save_every_steps=50, loader={"workers": 0}, **settings)
    train_here(tmp_path / "whole", packed, config)
    stop_at(tmp_path / "cut", 5)
    with pytest.raises(StoppedError):
        train_here(tmp_path / "cut", packed, config)
    train_here(tmp_path / "cut", packed, config)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    [last] = (tmp_path / "cut" / "checkpoints").glob("step-*22")
    check_logits(last, last / "state.safetensors")


def stop_at(folder: Path, step: int) -> None:
    """Ask this process to stop as soon as the run has logged a step."""

    def watch():
        while not any(line["step"] >= step for line in metrics(folder)):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", OWN_WAY)
def test_killed_resumed_published_and_scored_by_open_clip(recipe, tmp_path, name):
    case = CASES[name]
    cut = Trial(recipe, tmp_path / "cut", **case)
    cut.train_here(tmp_path / "whole")
    killer = kill_rank_when(cut.uri("train"), lambda line: line["step"] >= 6)
    with pytest.raises(NeuclipError):
        cut.run("train")
    killer.join()
    assert not (cut.uri("train") / "manifest.json").exists()
    cut.run()
    assert weights(cut.uri("train")) == weights(tmp_path / "whole")
    chosen = load_file(cut.model / "open_clip_model.safetensors")
    step = next(
        folder
        for folder in sorted((cut.uri("train") / "checkpoints").glob("step-*"))
        if all(
            torch.equal(tensor, chosen[key])
            for key, tensor in load_file(folder / "open_clip_model.safetensors").items()
        )
    )
    check_logits(cut.model, step / "state.safetensors")
    check_scores(cut)


def check_logits(model: Path, state: Path) -> None:
    """What open_clip reads from the folder is what the objective had learned."""
    read, _, _ = open_clip.create_model_and_transforms(f"local-dir:{model}")
    learned = load_state(state)["objective"]
    if "learned_temperature.log_scale" in learned:
        expected = learned["learned_temperature.log_scale"]
    else:  # a temperature for every sample and side: the mean of all
        expected = -learned["individual.table.rows_RC"][:, :2].double().mean().float().log()
    assert torch.equal(read.logit_scale.detach().reshape(()), expected)
    if "logit_bias" in learned:
        assert torch.equal(read.logit_bias.detach().reshape(()), learned["logit_bias"])
        assert learned["logit_bias"] not in (-10.0, -5.0), "it was learned"
    else:
        assert read.logit_bias is None or read.logit_bias.detach().abs().max() == 0


def check_scores(trial: Trial) -> None:
    """open_clip's model, transform, tokenizer and classifier give our features and our score."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{trial.model}")
    model.eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{trial.model}")
    contents = [picture(colour, seed=900 + n, kind="PNG") for n, colour in enumerate(NAMES * 3)]
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(io.BytesIO(c))) for c in contents])
        images = model.encode_image(pixels, normalize=True)
        texts = model.encode_text(tokenize(NAMES), normalize=True)
        classes = open_clip.build_zero_shot_classifier(
            model, tokenize, classnames=NAMES, templates=[lambda c: f"a photo of {c}"]
        )
    towers = load_towers(trial.model)
    torch.testing.assert_close(
        encode_images(towers, contents, batch_size=7)[0], images, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(encode_texts(towers, NAMES, batch_size=7), texts, rtol=0, atol=1e-6)
    labels = torch.arange(len(NAMES)).repeat(3)
    right = int(((images @ classes).argmax(dim=1) == labels).sum())
    row = trial.scores()
    assert right == round(row["metrics"]["acc1"] * row["samples"])
