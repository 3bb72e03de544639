"""Oracles: the index's own draw, features encoded one by one, the run of one rank, the run without a break."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made.indexed import commit_index, count_samples, some_clusters, some_features
from oracles.rank_pool import shared_pool
from safetensors.torch import load_file
from training.requested_cases import UNIFORM, first_prototypes, from_index, parts_of
from training.runs import kill_rank_when, make_config, metrics, train, weights

from neuclip.foundation.errors import ChildError, ConfigError, DataError
from neuclip.index.sample_index import SampleIndex
from neuclip.loading.visits import MAIN
from neuclip.training.requested import RequestedSamples

CASES = Path(__file__).with_name("requested_cases.py")


@pytest.fixture(scope="module")
def indexed(packed, tmp_path_factory):
    """The packed samples with features and clusters in their index."""
    count = count_samples(packed.index)
    rows = {"features": some_features(count), "clusters": some_clusters(count)}
    uri = commit_index(packed.index, tmp_path_factory.mktemp("indexed"), **rows)
    return type(packed)(**{**vars(packed), "index": uri})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("strategy", ["uniform", "stratified", "kmeans++"])
def test_prototypes_are_the_drawn_samples_as_the_present_weights_see_them(
    indexed, tmp_path, strategy, workers
):
    config = make_config(objective=from_index(index_strategy=strategy), loader={"workers": workers})
    parts = parts_of(indexed, tmp_path, config)
    trainer = parts.trainer
    trainer.step = 11  # 11 * 16 of 169 samples: the second epoch shows other crops
    trainer.objective.completed_steps = 11
    wanted = trainer.objective.wanted()
    RequestedSamples(trainer, parts.samples, indexed.index).serve()
    ids = np.sort(SampleIndex(indexed.index).prototypes(48, strategy, wanted.seed)).tolist()
    (texts, images), found = trainer.objective.estimator.source.held()
    assert found.tolist() == ids
    trainer.encoders.eval()
    for place in (0, 7, 47):
        batch = parts.samples.__getitems__([(1, ids[place])])
        with torch.no_grad():
            image, text = trainer.encoders(batch.images, batch.texts)
        torch.testing.assert_close(images[place], image[MAIN].unit[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(texts[place], text[MAIN].unit[0], atol=1e-6, rtol=0)


def test_nothing_is_read_for_other_sources(packed, tmp_path):
    parts = parts_of(packed, tmp_path, make_config())
    before = torch.get_rng_state()
    RequestedSamples(parts.trainer, parts.samples, "/nowhere").serve()
    assert torch.equal(torch.get_rng_state(), before)
    assert parts.trainer.encoders.training


def test_an_observer_gets_its_own(packed, tmp_path):
    observers = {"index": from_index(num_prototypes=20)}
    probe = {"every_steps": 10, "samples": 64, "anchors": 32, "observers": observers}
    parts = parts_of(packed, tmp_path, make_config(objective=UNIFORM, probe=probe))
    RequestedSamples(parts.trainer, parts.samples, packed.index).serve()
    assert len(parts.trainer.objective.estimator.source.held()[1]) == 48
    observer = parts.trainer.observers.objectives["index"]
    assert len(observer.estimator.source.held()[1]) == 20


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_two_ranks_hold_the_prototypes_of_one(indexed, tmp_path, parallel, micro_batch):
    """47 prototypes: the last rank's share is filled up."""
    objective = from_index(num_prototypes=47)
    settings = {"objective": objective, "micro_batch": micro_batch, "loader": {"workers": 0}}
    one = first_prototypes(vars(indexed), str(tmp_path), settings)
    more = settings | {"parallel": parallel, "launch": {"processes": 2}}
    two = shared_pool().run(2, CASES, "first_prototypes", vars(indexed), str(tmp_path), more)
    for features, ids in two:
        assert torch.equal(ids, one[1])
        torch.testing.assert_close(features, one[0], atol=1e-6, rtol=0)
        assert torch.equal(features, two[0][0])


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"num_prototypes": 500}, ConfigError, "500 prototypes cannot be drawn from 169 samples"),
        ({"index_strategy": "stratified"}, DataError, "need the table clusters of the index"),
        ({"index_strategy": "kmeans++"}, DataError, "need the table features of the index"),
    ],
)
@pytest.mark.parametrize("is_observer", [False, True])
def test_what_the_index_lacks_is_refused_before_training(
    packed, tmp_path, changes, kind, says, is_observer
):
    section = from_index(**changes)
    config = (
        make_config(probe={"observers": {"index": section}})
        if is_observer
        else make_config(objective=section)
    )
    with pytest.raises(kind, match=says):
        train(tmp_path, packed, config)
    assert not (tmp_path / "train" / "k" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(packed, tmp_path):
    config = make_config(objective=UNIFORM, epochs=2, probe=None, keep_best=0)
    whole, _ = train(tmp_path / "whole", packed, config)
    saved = tmp_path / "cut" / "train" / "k" / "checkpoints"
    killer = kill_rank_when(
        tmp_path / "cut" / "train" / "k",
        lambda line: line["step"] >= 12 and (saved / "latest.json").is_file(),
    )
    with pytest.raises(ChildError, match="SIGKILL"):
        train(tmp_path / "cut", packed, config)
    killer.join()
    folder, manifest = train(tmp_path / "cut", packed, config)
    assert manifest.summary["resumed_at"] == 8
    assert weights(folder) == weights(whole)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_train_as_one(packed, tmp_path):
    logs, last = [], []
    for ranks in (1, 2):
        config = make_config(
            objective=UNIFORM,
            parallel="fsdp",
            launch={"processes": ranks},
            loader={"workers": 0},
            probe=None,
            keep_best=0,
        )
        folder, _ = train(tmp_path / f"{ranks}", packed, config)
        logs.append(metrics(folder))
        last.append(load_file(sorted(folder.glob("checkpoints/step-*"))[-1] / "state.safetensors"))
        shutil.rmtree(folder)
    assert len(logs[0]) > 30
    for a, b in zip(*logs, strict=True):
        assert a["sample_ids_sha256"] == b["sample_ids_sha256"]
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)
    name = "objective/estimator.prototype_ids_M"
    assert torch.equal(last[0][name], last[1][name])
