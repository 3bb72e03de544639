"""Budgets. Oracles: multiply-adds worked out by hand, a run that was really done, arithmetic on the answer itself."""

import json
import time

import pytest
from training.runs import make_config, make_packed, train_here

from neuclip import budget
from neuclip.budget import plan_budget
from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.index.reader import read_samples
from neuclip.recipe import load_recipe
from neuclip.training.config import TrainConfig
from neuclip.training.costs import forward_cost, measure
from neuclip.training.job import TrainJob
from neuclip.training.phases import plan_phases

BASE = {"objective": {"name": "openclip"}, "global_batch": 64}
TOWERS = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 3, "width": 96, "head_width": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def multiply_adds(tokens, width, layers):
    """A block by hand: four projections and an MLP of 4 widths, and attention twice over all pairs of tokens."""
    return layers * (12 * tokens * width**2 + 2 * tokens**2 * width)


@pytest.mark.parametrize(
    ("changes", "image_tokens", "text_tokens"),
    [
        ({}, 64, 32),
        ({"image_px": 32, "context_length": 8}, 16, 8),
        ({"image_tokens": {"name": "random", "keep": "1/4"}}, 16, 32),
    ],
)
def test_products_are_those_of_the_tokens(changes, image_tokens, text_tokens):
    found = forward_cost(
        TrainConfig.model_validate({**BASE, "model": {"architecture": TOWERS}, **changes})
    )
    assert (found.image_tokens, found.text_tokens) == (image_tokens, text_tokens)
    stem = (changes.get("image_px", 64) // 8) ** 2 * 3 * 64 * 96
    expected = multiply_adds(image_tokens + 1, 96, 3) + stem + 96 * 64
    expected += multiply_adds(text_tokens, 64, 2) + 64 * 64
    assert found.multiply_adds == pytest.approx(expected, rel=0.01)


def a_recipe(tmp_path, **train):
    """The smallest recipe of a published size, with its table."""
    from made.tables import write_table

    table = write_table(
        tmp_path / "table.parquet", [{"url": "http://a.test/1.png", "caption": "a"}]
    )
    changes = {"root": str(tmp_path / "lake"), "acquire.table": table}
    return load_recipe(
        "infra/recipes/clipa-b16-laion400m.yaml",
        changes | {f"train.{name}": value for name, value in train.items()},
    )


def test_a_budget_adds_up(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MODELS", ("ViT-B-16", "ViT-L-16"))
    recipe = a_recipe(tmp_path, telemetry={"price_per_hour": 2.0, "budget": 500.0})
    found = plan_budget(recipe, samples=400_000_000, seconds=1, tflops=100)
    first, second = found.phases
    assert (first.image_tokens, first.text_tokens) == (49, 16)
    assert (second.image_tokens, second.text_tokens) == (196, 16)
    assert first.samples == pytest.approx(6 * 400e6, abs=65536)
    assert second.samples == pytest.approx(131.072e6, rel=0.001)
    for phase in found.phases:
        assert phase.device_hours == pytest.approx(2 * phase.multiply_adds / (100e12 * 3600))
        assert phase.hours == pytest.approx(phase.device_hours / 8)
        assert phase.samples_per_s == pytest.approx(phase.samples / phase.hours / 3600)
    assert found.price == pytest.approx(2 * found.device_hours)
    assert found.affordable_share == pytest.approx(500 / found.price)
    for one in found.alternatives:
        spent = 3 * one.multiply_adds_a_pair * one.samples
        assert spent == pytest.approx(sum(phase.multiply_adds for phase in found.phases), rel=1e-6)
        assert one.passes == pytest.approx(one.samples / 400e6)
    by_model = {(one.model, one.image_tokens): one for one in found.alternatives}
    assert by_model["ViT-B-16", 49].samples > 3 * by_model["ViT-B-16", 196].samples
    assert by_model["ViT-L-16", 36].samples > by_model["ViT-L-16", 196].samples * 4
    assert json.loads(found.model_dump_json())["devices"] == 8


def test_how_many_samples_is_asked_for_where_nobody_knows(tmp_path):
    with pytest.raises(ConfigError, match="--samples N"):
        plan_budget(a_recipe(tmp_path), samples=None, seconds=1, tflops=100)


def test_towers_that_do_not_fit_here_are_refused(tmp_path, monkeypatch):
    from neuclip.training import costs

    monkeypatch.setattr(costs, "available_bytes", lambda device: 1_000_000_000)
    with pytest.raises(ConfigError, match=r"need .* GB, and this device has 1 GB free.*--tflops"):
        plan_budget(a_recipe(tmp_path), samples=400_000_000, seconds=1, tflops=None)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return make_packed(tmp_path_factory.mktemp("packed"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_tells_the_seconds_of_a_run(packed, tmp_path):
    """Both phases of a run of half a minute, loading included, to a quarter."""
    config = make_config(
        model={"architecture": TOWERS},
        objective={"name": "neuclip", "estimator": {"name": "queue", "num_pairs": 256}},
        global_batch=32,
        phases=[
            {"epochs": 25, "image_px": 32, "context_length": 8},
            {"epochs": 10, "image_tokens": {"name": "random", "keep": "1/2"}},
        ],
        epochs=35,
        probe=None,
        keep_best=0,
        save_every_steps=10_000,
        loader={"workers": 1},
    )
    job = TrainJob(
        config=config,
        seed=5,
        train_key="k",
        index_uri=packed.index,
        shard_uri=packed.shard,
        run_uri=str(tmp_path),
    )
    table = read_samples(packed.index)
    told = sum(
        (phase.last - phase.first)
        * measure(job, phase, table, seconds=4, world=World.single()).update_s
        for phase in plan_phases(config, table.count)
    )
    start = time.perf_counter()
    train_here(tmp_path, packed, config)
    taken = time.perf_counter() - start
    print(f"told {told:.1f} s, taken {taken:.1f} s")
    assert 0.75 < told / taken < 1.25
