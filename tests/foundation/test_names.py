"""Oracle: the names as the recipe's types list them."""

import pytest
from made.demo_web import DEMO_RECIPE

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.names import in_known_case
from neuclip.objectives.registry import KNOWN, parse
from neuclip.recipe import load_recipe
from neuclip.stage_list import from_stage, stage_called


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        ("train.precision", "BF16", "bf16"),
        ("train.optimiser", "AdamW", "adamw"),
        ("train.optimiser", " LAMB ", "lamb"),
        ("train.parallel", "FSDP", "fsdp"),
        ("train.on_bad_batch", "Roll_Back", "roll_back"),
        ("train.objective.reduction", "Two_Role", "two_role"),
        ("train.objective.alpha_mode", "Through", "through"),
        ("train.objective.estimator.name", "Network", "network"),
        ("train.objective.estimator.source", "INDEX", "index"),
        ("train.objective.estimator.fit_precision", "TF32", "tf32"),
        ("select.metric", "Mean_Recall_at_1", "mean_recall_at_1"),
        ("acquire.resize_mode", "Border", "border"),
        ("curate.rules.0.kind", "Caption_Characters", "caption_characters"),
    ],
)
def test_a_field_takes_its_names_in_any_case(field, written, meant):
    value = load_recipe(DEMO_RECIPE, {field: written}).model_dump()
    for part in field.split("."):
        value = value[int(part) if part.isdecimal() else part]
    assert value == meant


@pytest.mark.parametrize("name", KNOWN)
def test_objectives_and_what_is_below_them(name):
    for written in (name.upper(), name.title()):
        recipe = load_recipe(DEMO_RECIPE, {"train.objective": {"name": written}})
        assert recipe.train.objective.name == name
        assert parse({"name": written}).name == name
    observers = {"a": {"name": "NeuCLIP", "estimator": {"name": "AGED_queue"}}}
    recipe = load_recipe(DEMO_RECIPE, {"train.probe.observers": observers})
    assert recipe.train.probe.observers["a"].estimator.name == "aged_queue"


@pytest.mark.parametrize("kind", ["PHash", "Language", "CLIP_score", "TMARS"])
def test_scores(kind):
    with pytest.raises(ConfigError) as refusal:
        load_recipe(DEMO_RECIPE, {"score.scores": [{"kind": kind, "nothing": 1}]})
    assert "expected one of" not in str(refusal.value)


def test_stages():
    assert stage_called("TRAIN").name == "train"
    assert from_stage("Evaluate") == ("evaluate", "publish")


def test_what_is_not_one_name_in_another_case_stays_as_it_is():
    assert in_known_case("RN-50", ["RN50"]) == "RN-50"
    assert in_known_case("a", ["A", "a"]) == "a"
    assert in_known_case("AB", ["Ab", "aB"]) == "AB"


def test_the_key_is_that_of_the_name():
    lower, upper = (
        load_recipe(DEMO_RECIPE, {"train.precision": p}).train.keyed() for p in ("bf16", "BF16")
    )
    assert lower == upper
