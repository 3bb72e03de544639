"""Every term of DeCLIP on NeuCLIP, from recipe to published model. Oracle: open_clip on that folder, and the log."""

import open_clip
import pytest
import torch
from end_to_end.adopted_journey import Trial, make_inputs
from made.tables import write_table
from safetensors.torch import load_file
from training.runs import metrics

from neuclip.journey import plan
from neuclip.recipe import load_recipe

TERMS = {
    "mvs": {"name": "multi_view", "weight": 0.2},
    "siam": {"name": "image_self", "weight": 0.2, "hidden": 16, "output": 16, "bottleneck": 8},
    "words": {"name": "masked_text", "weight": 0.2, "bidirectional": True},
    "near": {"name": "neighbours", "weight": 0.2, "queue": 64},
}
RECIPES = ("yfcc15m-declip-b32", "cc3m-declip-rn50", "slip")


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    done = Trial(
        make_inputs(tmp_path_factory.mktemp("inputs")),
        tmp_path_factory.mktemp("lake") / "declip",
        objective={"name": "neuclip", "estimator": {"name": "queue", "num_pairs": 64}},
        weighting="paper",
        global_views="all",
        image_views={"second": {"augment": {}, "crop_scale": [0.4, 1.0]}},
        text_views={"second": {"captions": {"kind": "same", "edit": "eda"}}},
        terms=TERMS,
    )
    done.run()
    return done


def test_open_clip_reads_a_folder_without_heads(trial):
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{trial.model}")
    published = load_file(trial.model / "open_clip_model.safetensors")
    assert published.keys() == model.state_dict().keys()
    assert all(torch.equal(value, published[name]) for name, value in model.state_dict().items())


def test_every_line_has_each_term_and_the_signs_of_a_collapse(trial):
    lines = metrics(trial.uri("train"))
    signs = {"image_spread", "text_spread", "infonce_share", "objective_loss"}
    assert all({f"term_{name}_loss" for name in TERMS} | signs <= line.keys() for line in lines)
    last = lines[-1]
    assert last["term_near_loss"] > 0
    total = 0.4 * last["objective_loss"] + sum(0.2 * last[f"term_{name}_loss"] for name in TERMS)
    assert last["loss"] == pytest.approx(total, rel=1e-4)


def test_the_report_shows_each_terms_curve(trial):
    [report] = trial.uri("publish").rglob("report.html")
    page = report.read_text()
    for name in TERMS:
        assert f"<h3>Term {name}</h3>" in page
    assert "<h3>Objective beside terms</h3>" in page
    assert "<h3>Spread of the features</h3>" in page


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("objective", [{}, {"name": "neuclip"}], ids=str)
def test_the_recipes_of_published_size_plan(tmp_path, name, objective):
    table = write_table(
        tmp_path / "table.parquet", [{"url": "http://a.test/1.png", "caption": "a"}]
    )
    changes = {"root": str(tmp_path / "lake"), "acquire.table": table}
    changes |= {"train.objective": objective} if objective else {}
    stages = plan(load_recipe(f"infra/recipes/{name}.yaml", changes))
    assert {stage.state for stage in stages} == {"missing"}
