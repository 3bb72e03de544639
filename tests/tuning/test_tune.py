"""Tuning of an encoder. Oracles: the model before, the run without a stop, one whole batch."""

import numpy as np
import pytest
import torch
from made.text_encoders import TEXTS, encoder, llama

from neuclip.foundation.errors import NumericsError
from neuclip.foundation.progress import silent
from neuclip.text_encoder.tune_config import LoraConfig, TuneConfig
from neuclip.tuning.lora import add_lora, merge_lora
from neuclip.tuning.retrieval import caption_retrieval
from neuclip.tuning.triples import Triples, TwoKinds, split
from neuclip.tuning.tune import Tuner

COLOURS = ["red", "green", "blue", "black", "white"]
SHAPES = ["circle", "square", "star", "ring", "cross", "moon"]
PAIRS = [
    TwoKinds([f"{c} {s} {n}"], [f"what is to be seen is a {s} that is painted {c}, number {n}"])
    for c in COLOURS
    for s in SHAPES
    for n in (1, 2, 7)
]
QUICK = {"short": "alt", "long": "long", "batch": 12, "lr": 3e-3, "warmup_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("llama"))


def tune(folder, tmp_path, *, steps, pairs=PAIRS, seed=1, **fields):
    made = encoder(folder)
    config = TuneConfig(**{**QUICK, "steps": steps, **fields})
    triples = Triples(pairs, seed=seed, to_long=config.to_long, to_short=config.to_short)
    tuner = Tuner(made, config, seed=seed, state_uri=str(tmp_path / "state.safetensors"))
    return made, tuner.run(triples, silent)


def features(made):
    return made.features(made.tokenizer.batch(made.tokenizer.of(TEXTS))).detach()


def test_low_rank_matrices_begin_as_nothing(folder):
    made = encoder(folder)
    before, names = features(made), set(made.model.state_dict())
    adapted = add_lora(made, LoraConfig(), seed=1)
    assert torch.equal(features(made), before)
    trained = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert {n.rpartition(".lora_")[0].rpartition(".")[2] for n in trained} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    merged = merge_lora(adapted)
    assert set(merged.state_dict()) == names


def test_merged_is_unmerged(folder):
    made = encoder(folder)
    adapted = add_lora(made, LoraConfig(rank=4), seed=1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(2))
    unmerged = features(made)
    made.model = merge_lora(adapted)
    torch.testing.assert_close(features(made), unmerged, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features(encoder(folder)), unmerged, atol=1e-2)


@pytest.mark.slow
def test_tuning_teaches_which_captions_are_of_one_image(folder, tmp_path):
    pairs, held_out = split(PAIRS, held_out=100, seed=1)
    before = caption_retrieval(encoder(folder), held_out, batch_tokens=1000)
    made, done = tune(folder, tmp_path, steps=40, pairs=pairs)
    after = caption_retrieval(made, held_out, batch_tokens=1000)
    assert done.losses[-1] < done.losses[0] - 0.5
    assert after["pairs"] == before["pairs"] == 18
    for way in ("short_to_long", "long_to_short"):
        assert after[way] > before[way] + 0.2
    assert not any("lora" in name for name in made.model.state_dict())


def test_a_run_that_was_cut_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch):
    whole, _ = tune(folder, tmp_path / "whole", steps=9)
    update = Tuner.update

    def dying(self, triples):
        if self._step == 7:
            raise KeyboardInterrupt
        return update(self, triples)

    (tmp_path / "cut").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Tuner, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            tune(folder, tmp_path / "cut", steps=9, save_every_steps=3)
    again, done = tune(folder, tmp_path / "cut", steps=9, save_every_steps=3)
    assert done.resumed_at == 6
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name


def test_pieces_of_a_batch_give_its_gradient(folder, tmp_path):
    changes = {}
    for name, fields in (("whole", {}), ("pieces", {"micro_batch": 5})):
        made, done = tune(folder, tmp_path / name, steps=3, lora={"dropout": 0}, **fields)
        changes[name] = features(made), done.losses
    np.testing.assert_allclose(changes["whole"][1], changes["pieces"][1], rtol=1e-5)
    torch.testing.assert_close(changes["whole"][0], changes["pieces"][0], rtol=1e-3, atol=1e-4)


def test_dropout_is_keyed(folder, tmp_path):
    one, _ = tune(folder, tmp_path / "a", steps=3, lora={"dropout": 0.5})
    other, _ = tune(folder, tmp_path / "b", steps=3, lora={"dropout": 0.5})
    third, _ = tune(folder, tmp_path / "c", steps=3, lora={"dropout": 0.5}, seed=2)
    assert torch.equal(features(one), features(other))
    assert not torch.equal(features(one), features(third))


def test_a_loss_that_is_not_finite_ends_it(folder, tmp_path):
    with pytest.raises(NumericsError, match="loss of tuning the text encoder is nan"):
        tune(folder, tmp_path, steps=20, lr=1e30)
