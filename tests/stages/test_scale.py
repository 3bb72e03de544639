"""Oracle: what the section `scale` promises."""

import pytest
from made.demo_web import DEMO_RECIPE
from made.stages import NAMES
from pydantic import ValidationError

from neuclip.journey import identify
from neuclip.recipe import load_recipe
from neuclip.stages.pool import LOCAL
from neuclip.stages.scale import ScaleConfig
from tasks.pool import pool_of

SCALED = ("acquire", "score", "shard", "index", "evaluate")


@pytest.mark.parametrize("runner", ["local", "threads"])
@pytest.mark.parametrize(
    "field", [{"address": "tcp://h:1"}, {"gpus": 1}], ids=lambda f: next(iter(f))
)
def test_what_needs_a_cluster_is_refused_without_one(runner, field):
    with pytest.raises(ValidationError, match=f"{next(iter(field))} .* is for runner dask or ray"):
        ScaleConfig(runner=runner, **field)
    assert ScaleConfig(runner="dask", **field)


def test_who_does_the_parts_is_in_no_key(small_web):
    alone = load_recipe(DEMO_RECIPE, small_web.inputs)
    scales = {f"{stage}.scale": {"runner": "ray", "workers": 9, "gpus": 1} for stage in SCALED}
    shared = load_recipe(DEMO_RECIPE, {**small_web.inputs, **scales})
    keys = [[identify(recipe)[stage].key for stage in NAMES] for recipe in (alone, shared)]
    assert keys[0] == keys[1]


def test_stages_without_scale_and_local_ones_are_done_here(small_web):
    recipe = load_recipe(DEMO_RECIPE, small_web.inputs)
    for stage in NAMES:
        with pool_of(recipe.section(stage)) as pool:
            assert pool is LOCAL


def test_no_cluster_begins_before_there_is_work(small_web):
    """Oracle: an address where nobody listens; a stage that is done must not look there."""
    scale = {"runner": "dask", "address": "tcp://127.0.0.1:1"}
    recipe = load_recipe(DEMO_RECIPE, {**small_web.inputs, "score.scale": scale})
    with pool_of(recipe.section("score")) as pool:
        assert not pool.is_here
        assert not pool.shares_files
        assert list(pool.do([], None)) == []
