"""Oracle: the floor plan by hand: which stages a change must and must not touch."""

import pytest

from neuclip.foundation.errors import ConfigError, DataError
from neuclip.journey import STAGES, from_stage, identify, plan, run_stage
from neuclip.recipe import load_recipe
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, commit_stage

DEMO = "infra/recipes/demo.yaml"


def changed(overrides):
    before, after = identify(load_recipe(DEMO)), identify(load_recipe(DEMO, overrides))
    return [stage for stage in STAGES if before[stage].key != after[stage].key]


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        ({"acquire.image_size": 64}, "acquire"),
        ({"demo.pairs": 5000}, "acquire"),
        ({"curate.rules.caption_words.min": 4}, "curate"),
        ({"caption.max_per_source": 1}, "caption"),
        ({"shard.samples_per_shard": 100}, "shard"),
        ({"seed": 1}, "curate"),
        ({"train.lr": 0.5}, "train"),
        ({"train.objective.rho": 1}, "train"),
        ({"select.max_samples": 10}, "select"),
        ({"evaluate.sets": []}, "evaluate"),
        ({"curate.decontaminate": None}, "curate"),
        ({"curate.decontaminate.sets": ["./lake/demo-web/evaluation/wds_scenes_shapes"]}, "curate"),
        ({"publish.name": "other"}, "publish"),
    ],
)
def test_a_change_touches_its_stage_and_all_below(overrides, first):
    assert changed(overrides) == list(from_stage(first))


@pytest.mark.parametrize(
    "overrides",
    [
        {"root": "./lake/another"},
        {"acquire.processes": 7, "acquire.threads": 3},
        {"train.launch.processes": 2, "train.loader.workers": 0, "train.log_every_steps": 3},
        {"evaluate.batch_size": 3, "select.batch_size": 3},
    ],
)
def test_what_cannot_change_an_output_touches_nothing(overrides):
    assert changed(overrides) == []


def commit_all(recipe):
    for identity in identify(recipe).values():
        commit_stage(identity, lambda _: Outcome(make_ledger(1, 1, {})))


def test_the_plan_says_what_changed(tmp_path):
    recipe = load_recipe(DEMO, {"root": str(tmp_path)})
    assert {item.state for item in plan(recipe)} == {"missing"}
    commit_all(recipe)
    assert {item.state for item in plan(recipe)} == {"done"}
    other = load_recipe(DEMO, {"root": str(tmp_path), "curate.rules.caption_words.min": 4})
    by_stage = {item.stage: item for item in plan(other)}
    assert [s for s in STAGES if by_stage[s].state == "missing"] == list(from_stage("curate"))
    assert by_stage["curate"].why == "curate.rules.caption_words.min: 2 -> 4"
    assert by_stage["caption"].why == "other input: curate (changed)"
    (tmp_path / "train" / by_stage["train"].key).mkdir(parents=True)
    (tmp_path / "train" / by_stage["train"].key / "half").write_text("x")
    partial = next(item for item in plan(other) if item.stage == "train")
    assert partial.state == "partial"
    assert partial.why.startswith("begun and not finished; ")


def test_a_set_to_evaluate_alone_redoes_no_training():
    """And one that training is to be kept clean of is named where training is described."""
    with pytest.raises(ConfigError, match=r"decontaminate\.sets names no set.*or set .* to null"):
        load_recipe(DEMO, {"curate.decontaminate.sets": []})
    one = ["./lake/demo-web/evaluation/wds_scenes_shapes"]
    assert changed({"evaluate.sets": one}) == ["evaluate", "publish"]


def test_a_stage_without_what_lies_above_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"stage train needs caption, which has not been done.*--only caption"
    ):
        run_stage(load_recipe(DEMO, {"root": str(tmp_path)}), "train")


def test_names_and_inputs_are_checked(tmp_path):
    with pytest.raises(ConfigError, match=r"no stage 'curat'.*Did you mean 'curate'"):
        from_stage("curat")
    with pytest.raises(DataError, match=r"found none; check the path"):
        plan(load_recipe(DEMO, {"acquire.table": str(tmp_path / "none.parquet")}))
    with pytest.raises(ConfigError, match="called alike"):
        plan(
            load_recipe(
                DEMO, {"curate.decontaminate": None, "evaluate.sets": ["a/wds_x", "b/wds_x"]}
            )
        )


def test_where_a_table_lies_does_not_matter(tmp_path):
    keys = set()
    for folder in ("a", "b"):
        path = tmp_path / folder / "urls.csv"
        path.parent.mkdir()
        path.write_text("url,caption\nhttp://127.0.0.1/x,a text\n")
        recipe = load_recipe(
            DEMO,
            {
                "acquire.table": str(path),
                "demo": None,
                "evaluate.sets": [],
                "curate.decontaminate": None,
            },
        )
        keys.add(identify(recipe)["publish"].key)
    assert len(keys) == 1
