"""Oracle: the floor plan by hand: which stages a change must and must not touch."""

import pytest
from made.demo_web import DEMO_RECIPE
from made.stages import NAMES, from_stage

from neuclip.foundation.errors import ConfigError, DataError
from neuclip.journey import identify, plan, run_stage
from neuclip.recipe import load_recipe
from neuclip.stage_list import stage_called
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, commit_stage


@pytest.fixture
def demo(small_web):
    """Read the demo's recipe, its inputs those of a small web."""
    return lambda overrides: load_recipe(DEMO_RECIPE, {**small_web.inputs, **overrides})


@pytest.fixture
def changed(demo):
    return lambda overrides: _changed(demo({}), demo(overrides))


def _changed(was, now):
    before, after = identify(was), identify(now)
    assert set(before) == set(after) == set(NAMES)
    return [stage for stage in before if before[stage].key != after[stage].key]


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        ({"acquire.image_size": 64}, "acquire"),
        ({"curate.rules.caption_words.min": 4}, "curate"),
        ({"caption.max_per_source": 1}, "caption"),
        ({"shard.samples_per_shard": 100}, "shard"),
        ({"seed": 1}, "curate"),
        ({"train.lr": 0.5}, "train"),
        ({"train.objective.rho": 1}, "train"),
        ({"select.max_samples": 10}, "select"),
        ({"evaluate.sets": []}, "evaluate"),
        ({"curate.decontaminate": None}, "score"),
        ({"score.scores": [{"kind": "language"}]}, "score"),
        ({"publish.name": "other"}, "publish"),
    ],
)
def test_a_change_touches_its_stage_and_all_below(changed, overrides, first):
    beside = {"caption": {"shard"}}.get(first, set())  # texts lie apart from images
    assert changed(overrides) == [stage for stage in from_stage(first) if stage not in beside]


@pytest.mark.parametrize(
    "overrides",
    [
        {"root": "./lake/another"},
        {"acquire.processes": 7, "acquire.threads": 3},
        {"train.launch.processes": 2, "train.loader.workers": 0, "train.log_every_steps": 3},
        {"evaluate.batch_size": 3, "select.batch_size": 3},
    ],
)
def test_what_cannot_change_an_output_touches_nothing(changed, overrides):
    assert changed(overrides) == []


def commit_all(recipe):
    for identity in identify(recipe).values():
        commit_stage(identity, lambda _: Outcome(make_ledger(1, 1, {})))


def test_the_plan_says_what_changed(demo, tmp_path):
    recipe = demo({"root": str(tmp_path)})
    assert {item.state for item in plan(recipe)} == {"missing"}
    commit_all(recipe)
    assert {item.state for item in plan(recipe)} == {"done"}
    other = demo({"root": str(tmp_path), "curate.rules.caption_words.min": 4})
    by_stage = {item.stage: item for item in plan(other)}
    assert [s for s in by_stage if by_stage[s].state == "missing"] == list(from_stage("curate"))
    assert by_stage["curate"].why == "curate.rules.caption_words.min: 2 -> 4"
    assert by_stage["caption"].why == "other input: curate (changed)"
    (tmp_path / "train" / by_stage["train"].key).mkdir(parents=True)
    (tmp_path / "train" / by_stage["train"].key / "half").write_text("x")
    partial = next(item for item in plan(other) if item.stage == "train")
    assert partial.state == "partial"
    assert partial.why.startswith("begun and not finished; ")


def test_a_set_to_evaluate_alone_redoes_no_training(demo, changed, small_web):
    """And one that training is to be kept clean of is named where training is described."""
    with pytest.raises(ConfigError, match=r"decontaminate\.sets names no set.*or set .* to null"):
        demo({"curate.decontaminate.sets": []})
    one = small_web.sets[:1]
    assert changed({"evaluate.sets": one}) == ["evaluate", "publish"]
    assert changed({"curate.decontaminate.sets": one}) == list(from_stage("score"))


def test_a_stage_without_what_lies_above_is_refused(demo, tmp_path):
    with pytest.raises(
        ConfigError, match=r"stage train needs shard, which has not been done.*--only shard"
    ):
        run_stage(demo({"root": str(tmp_path)}), "train")


def test_names_and_inputs_are_checked(demo, tmp_path):
    with pytest.raises(ConfigError, match=r"no stage 'curat'.*Did you mean 'curate'"):
        stage_called("curat")
    with pytest.raises(DataError, match=r"found none; check the path"):
        plan(demo({"acquire.table": str(tmp_path / "none.parquet")}))
    with pytest.raises(ConfigError, match="called alike"):
        plan(demo({"curate.decontaminate": None, "evaluate.sets": ["a/wds_x", "b/wds_x"]}))


def test_where_a_table_lies_does_not_matter(tmp_path):
    keys = set()
    for folder in ("a", "b"):
        path = tmp_path / folder / "urls.csv"
        path.parent.mkdir()
        path.write_text("url,caption\nhttp://127.0.0.1/x,a text\n")
        changes = {"acquire.table": str(path), "evaluate.sets": [], "curate.decontaminate": None}
        recipe = load_recipe(DEMO_RECIPE, changes)
        keys.add(identify(recipe)["publish"].key)
    assert len(keys) == 1
