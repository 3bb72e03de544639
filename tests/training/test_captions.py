"""Texts in training. Oracles: the run without a source, the policy applied by hand, one rank against two, no stop."""

import signal
from collections import Counter

import pytest
import torch
from made.acquired import Pair, some_pairs
from made.packed import pack
from pydantic import ValidationError
from training.runs import kill_rank_when, make_config, metrics, train, train_here, weights

from neuclip.foundation.errors import StoppedError
from neuclip.index.reader import read_samples
from neuclip.loading.captions import Captions
from neuclip.loading.order import BatchOrder
from neuclip.loading.visits import MAIN, Visit
from neuclip.shards.config import ShardConfig
from neuclip.towers.model import create_towers
from neuclip.training import loop
from neuclip.training.parts import training_samples
from neuclip.training.shown_texts import shares

QUICK = {
    "loader": {"workers": 0},
    "probe": None,
    "keep_best": 0,
    "epochs": 1,
    "objective": {"name": "openclip"},
}
MIX = {
    "kind": "per_source",
    "weights": {"alt": 3, "rewrite": 1},
    "schedule": [{"from_epoch": 1, "weights": {"alt": 1, "rewrite": 3}}],
}
VIEWS = {
    "captions": MIX,
    "text_views": {
        "other": {"captions": {"kind": "other"}},
        "edited": {"captions": {"kind": "same", "view": "other", "edit": "eda"}},
        "any": {"captions": {"kind": "per_caption", "sources": ["rewrite"]}},
    },
    "terms": {"mvs": {"name": "multi_view", "weight": 0.2}},
}


def per_source(**of):
    return {"captions": {"kind": "per_source", "weights": of}}


def samples_of(packed, config):
    return training_samples(
        config,
        read_samples(packed.index),
        create_towers(config.model, seed=0),
        shard_uri=packed.shard,
        index_uri=packed.index,
        seed=5,
    )


def order_of(packed, config):
    sizes = torch.bincount(torch.tensor(read_samples(packed.index).shard)).numpy()
    return BatchOrder(sizes, seed=5, streams=config.streams, global_batch=config.global_batch)


def told(folder):
    return [
        {
            name: value
            for name, value in line.items()
            if name.startswith("text_") and name != "text_spread"
        }
        for line in metrics(folder)
    ]


def without_rewrites(root):
    pairs = [Pair(pair.number, {"alt": pair.captions["alt"]}) for pair in some_pairs(180)]
    return pack(root, [pairs], shard=ShardConfig(samples_per_shard=30, selection_share=0.1))


def test_weight_0_on_every_new_source_trains_to_the_bits_of_no_source(packed, tmp_path):
    """`vecap` is a source that no sample has; `rewrite` may be taken out of the table then."""
    ways = {
        "plain": per_source(alt=1),
        "zero": per_source(alt=1, rewrite=0, vecap=0),
        "none": {"captions": {"kind": "per_caption", "sources": []}},
        "alone": {**per_source(alt=1), "text_views": VIEWS["text_views"]},
    }
    for name, captions in ways.items():
        train_here(tmp_path / name, packed, make_config(**QUICK | captions))
    config = make_config(**QUICK | ways["zero"])
    train_here(tmp_path / "removed", without_rewrites(tmp_path / "lake"), config)
    expected = weights(tmp_path / "plain")
    assert all(weights(tmp_path / name) == expected for name in (*ways, "removed"))


def test_images_are_the_same_whatever_is_drawn_of_the_texts(packed):
    pairs = [(epoch, sample_id) for epoch in range(2) for sample_id in range(12)]
    one, two = (
        samples_of(packed, make_config(**QUICK | captions)).__getitems__(pairs)
        for captions in (per_source(alt=1), VIEWS)
    )
    assert torch.equal(one.images[MAIN], two.images[MAIN])
    assert not torch.equal(one.texts[MAIN], two.texts[MAIN])


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_draw_the_texts_that_one_rank_draws(packed, ranks):
    config = make_config(**QUICK | VIEWS)
    samples, order = samples_of(packed, config), order_of(packed, config)
    for step in (0, 5, 12):
        whole = samples.__getitems__(order.batch(step))
        parts = [
            samples.__getitems__(order.batch(step, rank=rank, size=ranks)) for rank in range(ranks)
        ]
        for view in (MAIN, *VIEWS["text_views"]):
            assert torch.equal(whole.texts[view], torch.cat([part.texts[view] for part in parts]))
            assert torch.equal(
                whole.text_ids[view], torch.cat([part.text_ids[view] for part in parts])
            )


def test_shares_are_those_of_the_texts_of_all_batches(packed, tmp_path):
    """Oracle: the policy by hand over the order of the data."""
    config = make_config(**QUICK | VIEWS | {"epochs": 1.3, "log_every_steps": 4})
    result = train_here(tmp_path, packed, config)
    order, table = order_of(packed, config), read_samples(packed.index)
    captions = Captions(packed.index, cache_gb=1)
    views = {view.name: view for view in samples_of(packed, config)._texts}
    counts = {name: Counter() for name in views}
    lines = {line["step"]: line for line in metrics(tmp_path)}
    for step in range(result.steps):
        for epoch, sample_id in order.batch(step):
            shard = int(table.shard[sample_id])
            row = sample_id - int(table.first[shard])
            for name, view in views.items():
                visit = Visit(5, epoch, sample_id)
                counts[name][view.choose(captions, table.shards[shard], row, visit).source] += 1
        if step + 1 in lines:
            for name, found in counts.items():
                for source, count in found.items():
                    share = lines[step + 1][f"text_share_{name}_{source}"]
                    assert share == pytest.approx(count / found.total())
    assert {name: found.by_source for name, found in result.texts.items()} == counts
    assert told(tmp_path)[-1] == shares(result.texts)
    assert counts["other"] != counts[MAIN]


def test_a_run_that_resumes_tells_the_shares_of_one_that_nothing_stopped(
    packed, tmp_path, monkeypatch
):
    """The stop lies between two lines of metrics, and before the schedule's change."""
    config = make_config(**QUICK | VIEWS | {"epochs": 1.3, "log_every_steps": 3})
    whole = train_here(tmp_path / "whole", packed, config)
    sound = loop._Run._step

    def step(self, batch):
        if self.trainer.step == 4 and not self.begun_at:
            signal.raise_signal(signal.SIGTERM)
        sound(self, batch)

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(StoppedError):
        train_here(tmp_path / "cut", packed, config)
    found = train_here(tmp_path / "cut", packed, config)
    assert found.resumed_at == 5
    assert found.texts == whole.texts
    assert told(tmp_path / "cut") == told(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_rank_two_ranks_and_killed_ones_show_the_same_texts(packed, tmp_path):
    def run(name, **launch):
        config = make_config(
            **QUICK | VIEWS | {"epochs": 2, "loader": {"workers": 1}}, launch=launch
        )
        killer = None
        if launch.get("max_restarts"):
            folder = tmp_path / name / "train" / name
            killer = kill_rank_when(folder, lambda line: line["step"] >= 10)
        folder, manifest = train(tmp_path / name, packed, config, key=name)
        if killer is not None:
            killer.join()
        return told(folder), manifest.summary

    (lines, one), (of_two, two), (of_killed, killed) = (
        run("one"),
        run("two", processes=2),
        run("killed", processes=2, max_restarts=1),
    )
    assert lines == of_two == of_killed
    assert one["texts"] == two["texts"] == killed["texts"]
    assert killed["restarts"] == 1
    assert one["texts"][MAIN]["asked"].startswith("0.75 alt + 0.25 rewrite, from epoch 1")
    assert one["texts"]["edited"]["asked"] == "the text of other; edited by EDA"


def test_a_phase_has_a_policy_of_its_own(packed, tmp_path):
    phases = [{"epochs": 0.5}, {"epochs": 0.5, **per_source(rewrite=1)}]
    settings = {**QUICK, "epochs": 1}
    config = make_config(**settings | per_source(alt=1), phases=phases)
    assert config.all_caption_sources == ["alt", "rewrite"]
    result = train_here(tmp_path, packed, config)
    found = result.texts[MAIN].by_source
    assert set(found) == {"alt", "rewrite"}
    assert abs(found["alt"] - found["rewrite"]) <= config.global_batch
    assert config.describe_captions(MAIN) == "1 alt; then 1 rewrite"
    bare = make_config(**settings, phases=[{"epochs": 1}]).keyed()["phases"]
    assert "captions" not in bare[0], "keys of recipes with phases stay"


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"a": {"captions": {"kind": "same", "view": "b"}}}, "'b'; views of texts are main, a"),
        ({"a": {"captions": {"kind": "other", "view": "a"}}}, "which leans on it"),
        (
            {
                "a": {"captions": {"kind": "same", "view": "b"}},
                "b": {"captions": {"kind": "other", "view": "a"}},
            },
            "which leans on it",
        ),
    ],
)
def test_views_that_lean_on_nothing_are_refused(views, message):
    with pytest.raises(ValidationError, match=message):
        make_config(text_views=views)


def test_the_view_main_leans_on_no_other():
    with pytest.raises(ValidationError, match="per_source"):
        make_config(captions={"kind": "same"})
