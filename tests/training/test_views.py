"""Views of a batch in training. Oracles: the run without them, the run that nothing stopped, one rank against two."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.rank_pool import shared_pool
from pydantic import ValidationError
from training.micro_batch_cases import make_trainer
from training.runs import make_config, metrics, train, train_here, weights
from training.view_cases import make_views, train_views

from neuclip.foundation.errors import StoppedError
from neuclip.index.reader import read_samples
from neuclip.loading.visits import MAIN, Visit
from neuclip.objectives.terms.term import States
from neuclip.towers.model import create_towers
from neuclip.training import loop
from neuclip.training.parts import training_samples

CASES = Path(__file__).with_name("view_cases.py")
QUICK = {"loader": {"workers": 0}, "probe": None, "keep_best": 0, "epochs": 1}
VIEWS = {
    "image_views": {"second": {"crop_scale": [0.2, 1.0]}},
    "text_views": {"second": {"captions": {"kind": "per_source", "weights": {"rewrite": 1.0}}}},
}
MVS = {"mvs": {"name": "multi_view", "weight": 0.4}}


def samples_of(packed, **changes):
    config = make_config(**QUICK, **changes)
    return training_samples(
        config,
        read_samples(packed.index),
        create_towers(config.model, seed=0),
        shard_uri=packed.shard,
        index_uri=packed.index,
        seed=5,
    )


def test_main_views_are_the_same_whatever_stands_beside_them(packed):
    pairs = [(0, 3), (1, 70), (2, 9)]
    alone = samples_of(packed).__getitems__(pairs)
    beside = samples_of(packed, **VIEWS, terms=MVS).__getitems__(pairs)
    assert list(alone.images) == list(alone.texts) == [MAIN]
    assert list(beside.images) == list(beside.texts) == [MAIN, "second"]
    for side in ("images", "texts", "text_ids"):
        assert torch.equal(getattr(alone, side)[MAIN], getattr(beside, side)[MAIN])
        assert not torch.equal(*getattr(beside, side).values())
    assert beside.sample_ids.tolist() == beside.cpu_ids.tolist() == [3, 70, 9]


def test_views_that_no_term_reads_are_not_loaded(packed):
    for terms in ({}, {"mvs": MVS["mvs"] | {"weight": 0}}):
        batch = samples_of(packed, **VIEWS, terms=terms).__getitems__([(0, 1)])
        assert list(batch.images) == list(batch.texts) == [MAIN]


def test_a_text_has_the_same_number_whenever_it_is_seen(packed):
    samples = samples_of(packed, **VIEWS, terms=MVS)
    number_of = {}
    for epoch in range(12):
        batch = samples.__getitems__([(epoch, sample_id) for sample_id in range(20)])
        for view in (MAIN, "second"):
            for place, tokens in enumerate(batch.texts[view].tolist()):
                text = (place, tuple(tokens))
                number_of.setdefault(text, batch.text_ids[view][place].item())
                assert number_of[text] == batch.text_ids[view][place].item()
    assert len(set(number_of.values())) == len(number_of) > 40


def test_draws_of_a_view_depend_on_their_key_alone():
    keys = [(5, 0, 1, "image", MAIN), (5, 0, 1, "image", "second"), (5, 0, 1, "caption", MAIN)]
    keys += [(5, 0, 2, "image", MAIN), (5, 1, 1, "image", MAIN), (6, 0, 1, "image", MAIN)]
    drawn = [Visit(*key[:3]).draws(*key[3:]).integers(0, 2**60) for key in keys]
    assert len(set(drawn)) == len(keys)
    again = [Visit(*key[:3]).draws(*key[3:]).integers(0, 2**60) for key in keys]
    assert np.array_equal(drawn, again)


def test_a_term_of_weight_0_and_views_for_it_change_no_bit(packed, tmp_path):
    plain, off = (
        make_config(**QUICK),
        make_config(**QUICK, **VIEWS, terms={"mvs": {"name": "multi_view", "weight": 0}}),
    )
    train_here(tmp_path / "plain", packed, plain)
    train_here(tmp_path / "off", packed, off)
    assert weights(tmp_path / "plain") == weights(tmp_path / "off")


def test_a_run_with_a_term_tells_its_parts_and_resumes_to_the_same_bits(
    packed, tmp_path, monkeypatch
):
    config = make_config(**QUICK, **VIEWS, terms=MVS, objective={"name": "fastclip"})
    train_here(tmp_path / "whole", packed, config)
    for line in metrics(tmp_path / "whole"):
        assert line["loss"] == pytest.approx(line["objective_loss"] + 0.4 * line["term_mvs_loss"])
    sound = loop._Run._step

    def step(self, batch):
        if self.trainer.step == 4 and not self.begun_at:
            signal.raise_signal(signal.SIGTERM)
        sound(self, batch)

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(StoppedError):
        train_here(tmp_path / "cut", packed, config)
    train_here(tmp_path / "cut", packed, config)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_run_with_views_goes_on_to_the_same_bits_on_two_ranks(packed, tmp_path):
    from training.runs import kill_rank_when

    config = make_config(
        **{**QUICK, "epochs": 2}, **VIEWS, terms=MVS, launch={"processes": 2, "max_restarts": 1}
    )
    whole, _ = train(tmp_path / "whole", packed, config, key="a")
    folder = tmp_path / "cut" / "train" / "b"
    killer = kill_rank_when(folder, lambda line: line["step"] >= 10)
    found, _ = train(tmp_path / "cut", packed, config, key="b")
    killer.join()
    assert (
        weights(found)["open_clip_model.safetensors"]
        == weights(whole)["open_clip_model.safetensors"]
    )


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_two_ranks_take_the_steps_of_one(micro_batch):
    expected = train_views({"global_batch": 16})
    for answer in shared_pool().run(
        2, CASES, "train_views", {"global_batch": 16, "micro_batch": micro_batch}
    ):
        for name, value in expected.items():
            torch.testing.assert_close(answer[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_term_s_own_parameters_are_trained_with_their_own_rate_and_decay(ranks):
    """Oracle: AdamW by hand on the gradient that autograd gives."""
    settings = {"global_batch": 16, "head": True}
    answers = (
        [train_views(settings)]
        if ranks == 1
        else shared_pool().run(2, CASES, "train_views", settings)
    )
    expected = train_views(settings)
    for answer in answers:
        torch.testing.assert_close(answer["head"], expected["head"], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(answer["head"], answer["head by hand"], rtol=1e-6, atol=1e-9)
        assert not torch.equal(answer["head"], answer["head before"])


def test_states_of_tokens_are_there_where_a_term_reads_them():
    trainer = make_trainer(global_batch=8)
    batch = make_views(trainer, 0)
    trainer.encoders._states = {"second": States()}
    _, texts = trainer.encoders(batch.images, batch.texts)
    assert texts[MAIN].states is None
    assert texts["second"].states.shape == (8, 12, 16)
    plain = trainer.towers.encode_text(batch.texts["second"])
    torch.testing.assert_close(texts["second"].raw, plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": MVS}, r"terms\.mvs needs a second view"),
        (
            {"terms": {"mvs": {"name": "multi_view", "weight": 1, "images": ["strong"]}}, **VIEWS},
            r"terms\.mvs\.images names view 'strong'; views of images are main, second",
        ),
        ({"image_views": {"main": {}}}, "image_views are those beside `main`"),
        ({"image_views": {"x": {"crop_scale": [0.5, 0.1]}}}, r"image_views\.x\.crop_scale"),
        (
            {"text_views": {"x": {"captions": {"kind": "per_source", "weights": {"alt": 0}}}}},
            r"text_views\.x\.captions",
        ),
        ({"terms": {"mvs": {"name": "multi_vieuw", "weight": 1}}}, "multi_view"),
        ({"terms": {"mvs": {"name": "multi_view", "weight": -1}}}, "greater than or equal to 0"),
        ({"objective_weight": 0}, "greater than 0"),
        ({"text_tokens": {"name": "shuffle"}}, "truncate"),
    ],
)
def test_views_and_terms_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        make_config(**changes)
