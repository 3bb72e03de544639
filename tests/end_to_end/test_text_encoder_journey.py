"""LLM2CLIP from captions to a published model: a language model encodes texts once, an adapter reads features."""

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from end_to_end.adopted_journey import NAMES, make_inputs
from made.text_encoders import WIDTH, llama
from PIL import Image
from safetensors.torch import load_file
from towers.tiny import TINY, picture

from neuclip.foundation.errors import ConfigError
from neuclip.journey import identify, plan, run_journey
from neuclip.recipe import load_recipe
from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.folder import load_towers

LONG = {
    "kind": "template",
    "source": "long",
    "text": "this picture shows {alt} and nothing besides",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    base = tmp_path_factory.mktemp("inputs")
    return make_inputs(base), llama(base / "model")


def recipe_of(inputs, root, **changes):
    path, model = inputs
    overrides = {
        "root": str(root),
        "caption.derive": [LONG],
        "text_encoder": {
            "folder": str(model),
            "precision": "float32",
            "max_tokens": 128,
            "tune": {"short": "alt", "long": "long", "steps": 6, "batch": 8, "held_out": 10},
        },
        "train.model": {
            "architecture": TINY,
            "text": {"kind": "features", "width": WIDTH, "blocks": 1},
        },
        "train.captions": {"kind": "per_source", "weights": {"alt": 1, "long": 1}},
    }
    return load_recipe(str(path), overrides | changes)


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    recipe = recipe_of(inputs, tmp_path_factory.mktemp("lake"))
    reports = {report.stage: report for report in run_journey(recipe)}
    return recipe, reports


def uri(recipe, stage):
    return identify(recipe)[stage].uri


def test_every_text_has_one_feature_and_training_saw_both_kinds(done):
    _, reports = done
    stage = reports["text_encoder"].manifest
    captions = reports["caption"].manifest.summary["sources"]
    assert stage.summary["sources"] == {name: found["texts"] for name, found in captions.items()}
    assert stage.ledger.out == sum(found["texts"] for found in captions.values())
    shown = reports["train"].manifest.summary["texts"]["main"]["by_source"]
    assert shown["alt"] > 0
    assert shown["long"] > 0
    assert set(shown) == {"alt", "long"}


def test_the_published_folder_is_open_clips_for_images_and_ours_for_texts(done):
    recipe, _ = done
    model = Path(uri(recipe, "publish")) / "model"
    encoder = next(
        p
        for p in (model.parents[2] / "text_encoder" / "parts").iterdir()
        if (p / "encoder").is_dir()
    )
    towers = load_towers(model, encoder=encoder / "encoder")
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    contents = [picture(colour, seed=900 + n, kind="PNG") for n, colour in enumerate(NAMES * 3)]
    ours, _ = encode_images(towers, contents, batch_size=7)
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(io.BytesIO(c))) for c in contents])
        images = theirs.eval().encode_image(pixels, normalize=True)
    torch.testing.assert_close(ours, images, rtol=0, atol=1e-6)
    classes = encode_texts(towers, [f"a photo of {name}" for name in NAMES], batch_size=7)
    labels = np.arange(len(NAMES)).repeat(1).tolist() * 3
    right = int(((ours @ classes.T).argmax(dim=1) == torch.tensor(labels)).sum())
    [row] = json.loads((Path(uri(recipe, "evaluate")) / "scores.json").read_text())
    assert right == round(row["metrics"]["acc1"] * row["samples"])
    card = (model / "README.md").read_text()
    assert "open_clip alone encodes images, and no texts" in card
    assert "It was tuned on the captions" in card
    report = Path(uri(recipe, "publish"), "report.html").read_text()
    assert "What encoded its texts" in report
    assert json.loads(towers.files["encoder.json"])["fingerprint"][:16] in report
    assert "<td>short to long</td>" in report
    assert "/model" not in card.split("## Recipe")[0]
    assert towers.files["encoder.json"] == (encoder / "encoder" / "encoder.json").read_bytes()


def test_the_tuned_encoder_is_a_folder_of_its_own_with_what_it_is_told(inputs, done):
    recipe, reports = done
    said = reports["text_encoder"].manifest.summary
    assert said["tuning"]["steps"] == 6
    assert said["tuning"]["retrieval_after"]["pairs"] >= 2
    assert set(said["encoder"]["instructions"]) == {"long", "short"}
    [folder] = Path(recipe.root).glob("text_encoder/parts/*/encoder")
    before = load_file(inputs[1] / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name for name in changed)
    assert not any("norm" in name or "embed" in name for name in changed)
    assert str(inputs[1]) not in (folder / "config.json").read_text()
    assert not list(Path(recipe.root).glob("text_encoder/tuning/*"))


def test_without_the_encoder_texts_are_refused_by_name(done):
    recipe, _ = done
    towers = load_towers(f"{uri(recipe, 'publish')}/model")
    with pytest.raises(ConfigError, match=r"load_towers\(FOLDER, encoder=ENCODER_FOLDER\)"):
        towers.tokenize(["a cat"])


def test_what_could_not_be_trained_on_is_refused_before_anything_is_encoded(inputs, tmp_path):
    wide = {"kind": "features", "width": 2 * WIDTH}
    recipe = recipe_of(inputs, tmp_path, **{"train.model": {"architecture": TINY, "text": wide}})
    with pytest.raises(
        ConfigError, match=r"width is 128, and the encoder \(.*\) makes .* width 64; set it to 64"
    ):
        plan(recipe)
    with pytest.raises(ConfigError, match="add the section text_encoder"):
        recipe_of(inputs, tmp_path, text_encoder=None)
    with pytest.raises(ConfigError, match=r"makes features that train.model does not read"):
        recipe_of(inputs, tmp_path, **{"train.model": {"architecture": TINY}})
    edited = {"kind": "per_source", "weights": {"alt": 1}, "edit": "eda"}
    with pytest.raises(ConfigError, match=r"edited at each visit.*online: true"):
        recipe_of(inputs, tmp_path, **{"train.captions": edited})


def test_another_encoder_is_refused_by_both_fingerprints(done, tmp_path):
    recipe, _ = done
    other = llama(tmp_path / "other", seed=9)
    with pytest.raises(
        ConfigError, match=r"has fingerprint \w{12}, expected \w{12} \(llama, width 64\)"
    ):
        load_towers(f"{uri(recipe, 'publish')}/model", encoder=other)


def test_a_rerun_does_nothing_and_a_new_source_is_encoded_alone(inputs, done):
    recipe, before = done
    assert {report.state for report in run_journey(recipe)} == {"cached"}
    more = {"kind": "template", "source": "more", "text": "once more {alt}"}
    wider = recipe_of(
        inputs,
        recipe.root,
        **{
            "caption.derive": [LONG, more],
            "train.captions": {"kind": "per_source", "weights": {"alt": 1, "long": 1, "more": 1}},
        },
    )
    stages = ("caption", "text_encoder", "shard", "index")
    after = {report.stage: report.manifest for report in run_journey(wider, stages=stages)}
    old, new = before["text_encoder"].manifest.parts, after["text_encoder"].parts
    assert set(old) < set(new)
    assert len(new) - len(old) == len(before["acquire"].manifest.parts)
    assert after["shard"].key == before["shard"].manifest.key
