"""Oracle: wrong recipes written by hand, and what a person must be told about each."""

import re
from pathlib import Path

import pytest
from made.demo_web import DEMO_RECIPE

from neuclip.foundation.errors import ConfigError
from neuclip.recipe import Recipe, load_recipe, parse_override


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("curate.rulse", [], ["curate.rulse", "Did you mean 'rules'?"]),
        (
            "curate.rules.caption_words.mni",
            3,
            ["curate.rules.1.mni", "Did you mean 'min'?"],
        ),
        (
            "curate.rules.caption_wrods.min",
            3,
            ["no item 'caption_wrods'", "Did you mean 'caption_words'?"],
        ),
        ("curate.rules.0.kind", "x", ["curate.rules.0.kind: found 'x'", "caption_words"]),
        (
            "curate.rules.caption_words.min",
            0,
            ["curate.rules.1.min: found 0", "greater than or equal to 1"],
        ),
        (
            "train.objective.name",
            "neuclap",
            [
                "train.objective.name: found 'neuclap'",
                "openclip, siglip",
                "Did you mean 'neuclip'?",
            ],
        ),
        ("train.objective.roh", 1, ["train.objective.roh", "Did you mean 'rho'?"]),
        (
            "train.objective.rho",
            -1,
            [
                "  train.objective.rho: found -1, input should be greater than or equal to 0 or 'auto'"
            ],
        ),
        ("train.objective.gamma", "much", ["train.objective.gamma: found 'much', ", "or 'auto'"]),
        ("train.model", {"name": "ViT-B-33"}, ["'ViT-B-33'", "Did you mean 'ViT-B-32'?"]),
        ("train.global_batch", 130, ["global_batch 130 is not a multiple of streams 8"]),
        ("train.lr", "fast", ["train.lr: found 'fast'"]),
        ("trian.lr", 1, ["trian", "Did you mean 'train'?"]),
        ("acquire", {}, ["acquire: expected one of table", "found neither"]),
        ("acquire.adopt", "shards", ["acquire: expected one of table", "found both"]),
        ("select.metric", "recall", ["select.metric: found 'recall'", "mean_recall_at_1"]),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(name, value, told):
    with pytest.raises(ConfigError) as error:
        load_recipe(DEMO_RECIPE, {name: value})
    for part in told:
        assert part in str(error.value)


def test_all_wrong_fields_are_named_at_once():
    with pytest.raises(ConfigError, match=r"(?s)curate\.rules\.1\.min.*train\.lr"):
        load_recipe(DEMO_RECIPE, {"curate.rules.caption_words.min": 0, "train.lr": -1})


def test_what_is_not_a_recipe_is_refused(tmp_path):
    for content, told in [("a: [", "is not YAML"), ("- 1", "holds a list"), ("", "holds nothing")]:
        path = tmp_path / "recipe.yaml"
        path.write_text(content)
        with pytest.raises(ConfigError, match=told):
            load_recipe(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_overrides_are_read_as_yaml():
    assert parse_override("train.lr=1e-3") == ("train.lr", "1e-3")
    assert parse_override("train.lr=0.001") == ("train.lr", 0.001)
    assert parse_override("evaluate.sets=[a, b]") == ("evaluate.sets", ["a", "b"])
    assert load_recipe(DEMO_RECIPE, {"train.lr": "1e-3"}).train.lr == 1e-3
    with pytest.raises(ConfigError, match=r"not of the form section.field=value"):
        parse_override("train.lr")


def test_a_recipe_survives_its_own_yaml(tmp_path):
    recipe = load_recipe(DEMO_RECIPE)
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(str(path)) == recipe


def test_every_field_says_what_it_is():
    def check(model, place):
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                check(inner, f"{place}.{name}")
            assert field.description, f"{place}.{name}"

    check(Recipe, "recipe")


def test_the_recipe_of_the_readme_is_one(tmp_path):
    blocks = re.findall(
        r"```yaml\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (text,) = [block for block in blocks if block.startswith("root:")]
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(str(tmp_path / "recipe.yaml")).publish.name == "my-clip"
