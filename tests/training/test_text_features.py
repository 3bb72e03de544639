"""Training on features of texts. Oracles: the frozen encoder run in every batch, the run without a stop."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from made.encoded import encoded
from made.text_encoders import WIDTH, llama
from safetensors.torch import load_file
from training.runs import (
    ARCHITECTURE,
    make_config,
    make_packed,
    metrics,
    train,
    train_here,
    weights,
)

from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError, IntegrityError, StoppedError
from neuclip.index.reader import read_samples
from neuclip.index.side_files import feature_records, side_records
from neuclip.loading.visits import MAIN
from neuclip.training.job import TrainJob
from neuclip.training.parts import make_parts
from neuclip.training.phases import plan_phases
from neuclip.training.preflight import Preflight
from neuclip.training.trainer import Trainer

QUICK = {"loader": {"workers": 0}, "probe": None, "keep_best": 0, "epochs": 2}
BOTH = {"kind": "per_source", "weights": {"alt": 1, "rewrite": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory, folder):
    root = tmp_path_factory.mktemp("features")
    return encoded(root, make_packed(root), folder)


def config_of(*, text=(), **changes):
    tower = {"kind": "features", "width": WIDTH, "blocks": 1, **dict(text)}
    return make_config(
        **{
            **QUICK,
            "model": {"architecture": ARCHITECTURE, "text": tower},
            "captions": BOTH,
            **changes,
        }
    )


def job_of(packed, config, folder="/nowhere"):
    return TrainJob(
        config=config,
        seed=5,
        train_key="k",
        index_uri=packed.index,
        shard_uri=packed.shard,
        text_encoder_uri=packed.text_encoder,
        run_uri=str(folder),
    )


def parts_of(packed, config):
    table = read_samples(packed.index)
    [phase] = plan_phases(config, table.count)
    return make_parts(job_of(packed, config), World.single(), phase, table)


@pytest.mark.parametrize("objective", ["neuclip", pytest.param("openclip", marks=pytest.mark.slow)])
def test_cached_and_online_take_the_same_20_steps(packed, tmp_path, objective):
    runs = {}
    for name, text in (("cached", {}), ("online", {"online": True})):
        config = config_of(text=text, objective={"name": objective})
        train_here(tmp_path / name, packed, config)
        runs[name] = [line["loss"] for line in metrics(tmp_path / name) if "loss" in line]
    assert len(runs["cached"]) >= 20
    np.testing.assert_allclose(runs["cached"], runs["online"], rtol=0, atol=1e-6)


def test_an_online_encoder_is_frozen_and_nowhere_in_the_run(packed):
    parts = parts_of(packed, config_of(text={"online": True}))
    trainer = parts.trainer
    encoder = trainer.towers.model.text.encoder
    before = {name: x.clone() for name, x in encoder.model.state_dict().items()}
    for step in range(3):
        trainer.update(parts.samples.__getitems__(parts.order.batch(step, rank=0, size=1)))
    trainer.settle()
    assert all(torch.equal(x, before[name]) for name, x in encoder.model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in encoder.model.parameters())
    theirs = {id(p) for p in encoder.model.parameters()}
    optimised = [p for group in trainer.optimiser.param_groups for p in group["params"]]
    assert not theirs & {id(p) for p in (*optimised, *trainer.encoders.parameters())}
    assert not set(before) & set(trainer.model_state())


def test_batches_hold_the_feature_of_the_text_that_is_shown(packed):
    """Oracle: the side files read by numpy, the text by the loader of a recipe that reads tokens."""
    samples = parts_of(packed, config_of()).samples
    plain = parts_of(packed, make_config(**QUICK, captions=BOTH)).samples
    table = read_samples(packed.index)
    pairs = [(epoch, n) for epoch in (0, 1) for n in range(0, table.count, 7)]
    batch, tokens = samples.__getitems__(pairs), plain.__getitems__(pairs)
    assert batch.texts[MAIN].dtype == torch.float16
    assert torch.equal(batch.text_ids[MAIN], tokens.text_ids[MAIN])
    assert torch.equal(batch.images[MAIN], tokens.images[MAIN])
    texts, features = side_records(packed.index), feature_records(packed.index)
    shown = {}
    for place, (_, sample_id) in enumerate(pairs):
        shard = table.shards[table.shard[sample_id]]
        row = sample_id - int(table.first[table.shard[sample_id]])
        found = []
        for source in ("alt", "rewrite"):
            counts = lists_of(texts[source][shard][0])
            first = sum(map(len, counts[:row]))
            array = np.load(features[source][shard][0])
            found += [array[first + k] for k in range(len(counts[row]))]
        own = batch.texts[MAIN][place].numpy()
        assert any(np.array_equal(own, one) for one in found)
        shown[sample_id] = shown.get(sample_id, 0) + 1
    assert len(shown) > 10


def lists_of(path):
    from pyarrow import ipc

    with ipc.open_file(path) as file:
        return file.read_all()["texts"].to_pylist()


def test_a_share_of_0_for_long_texts_is_the_run_without_them(packed, tmp_path):
    for name, captions in (
        ("zero", {"kind": "per_source", "weights": {"alt": 1, "rewrite": 0}}),
        ("none", {"kind": "per_source", "weights": {"alt": 1}}),
    ):
        train_here(tmp_path / name, packed, config_of(captions=captions))
    assert weights(tmp_path / "zero") == weights(tmp_path / "none")
    train_here(tmp_path / "both", packed, config_of())
    assert weights(tmp_path / "both") != weights(tmp_path / "none")


@pytest.mark.slow
def test_workers_and_micro_batches_change_nothing(packed, tmp_path):
    train_here(tmp_path / "a", packed, config_of())
    train_here(tmp_path / "b", packed, config_of(loader={"workers": 2}))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    plain = {"objective": {"name": "openclip"}}
    train_here(tmp_path / "c", packed, config_of(**plain))
    train_here(tmp_path / "d", packed, config_of(**plain, micro_batch=4))
    c, d = ([line["loss"] for line in metrics(tmp_path / n) if "loss" in line] for n in "cd")
    np.testing.assert_allclose(c, d, rtol=0, atol=1e-5)


def test_a_stopped_run_goes_on_to_the_same_bits(packed, tmp_path, monkeypatch):
    config = config_of()
    train_here(tmp_path / "whole", packed, config)
    update = Trainer.update

    def stopping(self, batch, look=None):
        if self.step == 9:
            signal.raise_signal(signal.SIGTERM)
        return update(self, batch, look)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", stopping)
        with pytest.raises(StoppedError):
            train_here(tmp_path / "cut", packed, config)
    train_here(tmp_path / "cut", packed, config)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_checkpoints_hold_adapter_and_record_and_two_of_them_differ(packed, tmp_path):
    config = config_of(save_every_steps=8, freeze={"image": "all"})
    train_here(tmp_path / "run", packed, config)
    first, *_, last = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    names = {path.name for path in last.iterdir()}
    assert {"encoder.json", "text_adapter.safetensors", "open_clip_model.safetensors"} <= names
    record = json.loads((last / "encoder.json").read_bytes())
    assert record["width"] == WIDTH
    images = [load_file(f / "open_clip_model.safetensors")["visual.proj"] for f in (first, last)]
    adapters = [load_file(f / "text_adapter.safetensors")["proj.weight"] for f in (first, last)]
    assert torch.equal(*images)
    assert not torch.equal(*adapters)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"text": {"width": 32}},
            r"width is 32, and the encoder \(llama\) makes features of width 64; set it to 64",
        ),
        (
            {"captions": {"kind": "per_source", "weights": {"alt": 1, "other": 1}}},
            "'other', which no sample has",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_step_1(packed, tmp_path, change, says):
    with pytest.raises(ConfigError if "text" in change else Exception, match=says):
        train(tmp_path, packed, config_of(**change))
    assert not metrics(tmp_path / "train" / "k")


def test_features_of_another_encoder_are_refused_before_step_1(packed, tmp_path):
    other = encoded(
        tmp_path / "other", make_packed(tmp_path / "other"), llama(tmp_path / "m", seed=3)
    )
    mixed = type(packed)(**{**vars(packed), "text_encoder": other.text_encoder})
    with pytest.raises(
        IntegrityError, match=r"has features of the encoder \w{12}, expected \w{12}"
    ):
        Preflight(job_of(mixed, config_of())).inputs["features"]()


def side_file(packed, number=0):
    """A side file of features of a training shard."""
    found = [uri for uri, _ in feature_records(packed.index)["alt"].values()]
    return Path([uri for uri in sorted(found) if "selection" not in uri][number])


@pytest.mark.parametrize(
    "damage",
    ["swapped", *(pytest.param(d, marks=pytest.mark.slow) for d in ("short", "fp32", "gone"))],
)
def test_a_side_file_that_is_not_what_was_committed_is_named(tmp_path, folder, damage):
    packed = encoded(tmp_path, make_packed(tmp_path), folder)
    path, other = side_file(packed), side_file(packed, 1)
    if damage == "swapped":
        path.write_bytes(other.read_bytes())
    elif damage == "short":
        np.save(path, np.load(path)[:-1])
    elif damage == "fp32":
        np.save(path, np.load(path).astype(np.float32))
    else:
        path.unlink()
    with pytest.raises(IntegrityError, match=path.name):
        train_here(tmp_path / "run", packed, config_of())
