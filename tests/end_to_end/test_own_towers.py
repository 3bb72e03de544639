"""A tokenizer and a text tower of local folders, from recipe to published model. Oracle: open_clip on that folder."""

import io
import json

import open_clip
import pytest
import torch
from end_to_end.adopted_journey import NAMES, Trial, make_inputs
from PIL import Image
from towers.hub_folders import SMALL_CLIPA, SMALL_SIGLIP, text_folder, tokenizer_folder
from towers.tiny import TINY, picture
from training.runs import kill_rank_when, weights

from neuclip.foundation.errors import NeuclipError
from neuclip.journey import identify
from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.folder import load_towers

FEW_THEN_ALL = {
    "epochs": 2,
    "positions": "regenerate",
    "phases": [
        {"epochs": 1, "image_px": 16, "context_length": 5, "text_tokens": {"name": "block"}},
        {"epochs": 1, "image_tokens": {"name": "random", "keep": "7/10", "rounding": "floor"}},
    ],
}
"""CLIPA's phases."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    tokenizer_folder(base / "words")
    text_folder(base / "text", weights=True)
    return base


def model_of(kind, folders):
    return {
        "siglip": {"architecture": SMALL_SIGLIP, "tokenizer": str(folders / "words")},
        "clipa": {"architecture": SMALL_CLIPA, "tokenizer": str(folders / "words")},
        "hugging_face": {
            "architecture": TINY,
            "text": {"kind": "hugging_face", "folder": str(folders / "text")},
        },
    }[kind]


def read_by_open_clip(folder, monkeypatch):
    """Load a model folder as its card says: by a program that runs inside it."""
    monkeypatch.chdir(folder)
    model, _, transform = open_clip.create_model_and_transforms("local-dir:.")
    return model.eval(), transform, open_clip.get_tokenizer("local-dir:.")


def check_scores(trial, monkeypatch):
    """open_clip's model, transform, tokenizer and classifier give our features and our score."""
    model, transform, tokenize = read_by_open_clip(trial.model, monkeypatch)
    contents = [picture(colour, seed=900 + n, kind="PNG") for n, colour in enumerate(NAMES * 3)]
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(io.BytesIO(c))) for c in contents])
        images = model.encode_image(pixels, normalize=True)
        texts = model.encode_text(tokenize(NAMES), normalize=True)
        classes = open_clip.build_zero_shot_classifier(
            model, tokenize, classnames=NAMES, templates=[lambda c: f"a photo of {c}"]
        )
    towers = load_towers(trial.model)
    torch.testing.assert_close(
        encode_images(towers, contents, batch_size=7)[0], images, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(encode_texts(towers, NAMES, batch_size=7), texts, rtol=0, atol=1e-6)
    labels = torch.arange(len(NAMES)).repeat(3)
    right = int(((images @ classes).argmax(dim=1) == labels).sum())
    row = trial.scores()
    assert right == round(row["metrics"]["acc1"] * row["samples"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("siglip", {"objective": {"name": "siglip"}}),
        ("clipa", FEW_THEN_ALL),
        ("hugging_face", {}),
        ("hugging_face", {"parallel": "fsdp", "launch": {"processes": 2, "max_restarts": 0}}),
    ],
)
def test_killed_resumed_published_and_scored_by_open_clip(
    recipe, folders, tmp_path, monkeypatch, kind, layout
):
    cut = Trial(recipe, tmp_path / "cut", model=model_of(kind, folders), **layout)
    if "parallel" not in layout:
        cut.train_here(tmp_path / "whole")
    killer = kill_rank_when(cut.uri("train"), lambda line: line["step"] >= 6)
    with pytest.raises(NeuclipError):
        cut.run("train")
    killer.join()
    cut.run()
    if "parallel" not in layout:
        assert weights(cut.uri("train")) == weights(tmp_path / "whole")
    check_scores(cut, monkeypatch)
    config = json.loads((cut.model / "open_clip_config.json").read_text())["model_cfg"]
    assert str(folders) not in json.dumps(config)
    card = (cut.model / "README.md").read_text()
    assert "needs the transformers library" in card or "both need the transformers library" in card


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_siglip_of_its_real_size_is_trained_and_published(recipe, folders, tmp_path, monkeypatch):
    trial = Trial(
        recipe,
        tmp_path / "real",
        model={"name": "ViT-B-16-SigLIP", "tokenizer": str(folders / "words")},
        objective={"name": "siglip"},
        global_batch=4,
        epochs=0.06,
        save_every_steps=50,
        held_out_samples=4,
        keep_best=0,
    )
    trial.run()
    check_scores(trial, monkeypatch)


def test_the_folder_is_an_input_of_training_alone(recipe, folders, tmp_path):
    """Other content is another key, another place is not."""
    trial = Trial(recipe, tmp_path, model=model_of("siglip", folders))
    before = identify(trial.recipe)
    assert set(before["train"].inputs) == {"shard", "index", "tokenizer"}
    moved = tokenizer_folder(tmp_path / "elsewhere")
    there = Trial(recipe, tmp_path, model={"architecture": SMALL_SIGLIP, "tokenizer": str(moved)})
    assert {n: i.key for n, i in identify(there.recipe).items()} == {
        n: i.key for n, i in before.items()
    }
    tokenizer_folder(moved, captions=["other words"])
    after = identify(there.recipe)
    assert after["index"].key == before["index"].key
    assert after["train"].key != before["train"].key
