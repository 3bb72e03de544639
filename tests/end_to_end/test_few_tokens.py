"""Few tokens first, then all, from recipe to published model. Oracle: open_clip on that folder."""

import json

import open_clip
import pytest
import torch
from end_to_end.adopted_journey import NAMES, Trial, make_inputs
from made.tables import write_table
from PIL import Image
from towers.tiny import TINY, picture
from training.runs import metrics

from neuclip.journey import plan
from neuclip.recipe import load_recipe
from neuclip.towers.transforms import evaluation_transform

FIXED = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "pos_embed_type": "sin_cos_2d"}}
PHASES = [
    {
        "epochs": 1,
        "image_tokens": {"name": "random", "keep": "1/4"},
        "text_tokens": {"name": "syntax"},
        "context_length": 5,
    },
    {"epochs": 0.5, "learn_positions": True},
]
RECIPES = ("clipa-b16-laion400m", "clipa-l16", "clipa-h14-datacomp1b")


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    recipe = make_inputs(tmp_path_factory.mktemp("inputs"))
    done = Trial(
        recipe,
        tmp_path_factory.mktemp("lake") / "few",
        model={"architecture": FIXED},
        objective={
            "name": "neuclip",
            "warm_steps": 2,
            "estimator": {"name": "queue", "num_pairs": 64},
        },
        phases=PHASES,
        epochs=1.5,
    )
    done.run()
    return done


def test_open_clip_reads_what_is_published(trial):
    """Its model, transform and classifier give our score."""
    place = f"local-dir:{trial.model}"
    model, _, transform = open_clip.create_model_and_transforms(place)
    config = json.loads((trial.model / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["context_length"] == 16
    pictures = [picture(colour, seed=900 + n, kind="PNG") for n, colour in enumerate(NAMES * 3)]
    with torch.no_grad():
        pixels = torch.stack([transform(opened(content)) for content in pictures])
        classes = open_clip.build_zero_shot_classifier(
            model.eval(),
            open_clip.get_tokenizer(place),
            classnames=NAMES,
            templates=[lambda c: f"a photo of {c}"],
        )
        found = (model.encode_image(pixels, normalize=True) @ classes).argmax(dim=1)
    row = trial.scores()
    labels = torch.arange(len(NAMES)).repeat(3)
    assert int((found == labels).sum()) == round(row["metrics"]["acc1"] * row["samples"])
    ours = evaluation_transform(config["preprocess_cfg"])
    assert torch.equal(ours(opened(pictures[0])), pixels[0])


def opened(content):
    import io

    return Image.open(io.BytesIO(content))


def test_the_card_says_what_was_done_to_positions(trial):
    manifest = json.loads((trial.uri("train") / "manifest.json").read_text())
    notes = manifest["summary"]["positions"]
    assert len(notes) == 2
    assert "positional_embedding was interpolated, [5, 32] became [16, 32]" in notes[0]
    assert "visual.positional_embedding is learned from here on" in notes[1]
    card = (trial.model / "README.md").read_text()
    assert all(note in card for note in notes)


def test_few_tokens_cost_few_products(trial):
    lines = metrics(trial.uri("train"))
    flops = [line["flops_per_s"] / line["samples_per_s"] for line in lines]
    assert flops[0] == pytest.approx(flops[1])
    assert flops[0] < 0.55 * flops[-1]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"name": "neuclip", "rho": 8.0, "warm_steps": 300},
        pytest.param(
            {"name": "fastclip", "version": "v3", "gamma_decay_epochs": 3}, marks=pytest.mark.slow
        ),
    ],
    ids=["published", "neuclip", "fastclip"],
)
def test_the_recipes_of_published_size_plan(tmp_path, name, objective):
    table = write_table(
        tmp_path / "table.parquet", [{"url": "http://a.test/1.png", "caption": "a"}]
    )
    changes = {"root": str(tmp_path / "lake"), "acquire.table": table}
    changes |= {"train.objective": objective} if objective else {}
    captions = {"kind": "per_source", "weights": {"alt": 1, "rewrite": 1}}
    changes |= {"train.captions": captions} if objective else {}
    stages = plan(load_recipe(f"infra/recipes/{name}.yaml", changes))
    assert {stage.state for stage in stages} == {"missing"}
