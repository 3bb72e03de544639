"""Towers with a tokenizer from a local folder. Oracle: open_clip's readers of a model folder, and transformers."""

import importlib.util
import json
import subprocess
import sys

import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from towers.hub_folders import CAPTIONS, CLIP_WITH_WORDS, SMALL_SIGLIP, change, tokenizer_folder

from neuclip.foundation.errors import ConfigError
from neuclip.towers.config import ModelConfig, with_places
from neuclip.towers.files import MODEL_FILES
from neuclip.towers.folder import load_towers, save_towers
from neuclip.towers.model import create_towers
from neuclip.towers.transforms import evaluation_transform


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tokenizer_folder(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def siglip(words):
    return create_towers(ModelConfig(architecture=SMALL_SIGLIP, tokenizer=str(words)), seed=1)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["WordLevel", "BPE", "Unigram", "WordPiece"])
def test_tokens_are_those_that_transformers_gives(tmp_path, kind):
    """Oracle: AutoTokenizer on the folder, padded and cut to the tower's length; SigLIP's cleaning is left out."""
    from transformers import AutoTokenizer

    folder = tokenizer_folder(tmp_path, kind)
    config = ModelConfig(architecture=CLIP_WITH_WORDS, tokenizer=str(folder))
    if kind != "WordLevel":
        larger = {**CLIP_WITH_WORDS["text_cfg"], "vocab_size": 128}
        config = ModelConfig(
            architecture={**CLIP_WITH_WORDS, "text_cfg": larger}, tokenizer=str(folder)
        )
    texts = [*CAPTIONS, "", "a photo " * 40, "words it has not seen"]
    expected = AutoTokenizer.from_pretrained(folder)(
        texts, max_length=16, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    found = create_towers(config, seed=0).tokenize(texts)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)


def test_open_clip_reads_the_folder_and_sees_the_same_features(siglip, tmp_path):
    """Oracle: open_clip's own loader, transform and tokenizer, from the folder alone."""
    save_towers(siglip, tmp_path)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    mine = evaluation_transform(siglip.preprocess)(image)
    siglip.model.eval()
    model.eval()
    with torch.inference_mode():
        assert torch.equal(mine, transform(image))
        tokens = siglip.tokenize(CAPTIONS)
        assert torch.equal(tokens, tokenize(CAPTIONS))
        pixels = mine[None]
        for is_unit, images, texts in (
            (True, siglip.image_features, siglip.text_features),
            (False, siglip.encode_image, siglip.encode_text),
        ):
            assert torch.equal(images(pixels), model.encode_image(pixels, normalize=is_unit))
            assert torch.equal(texts(tokens), model.encode_text(tokens, normalize=is_unit))
    assert siglip.image.exports == siglip.text.exports == {"open_clip", "open_clip_inside"}


def test_save_load_save_gives_the_same_bytes(siglip, words, tmp_path):
    save_towers(siglip, tmp_path / "a")
    loaded = load_towers(tmp_path / "a")
    save_towers(loaded, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert set(content(tmp_path / "a")) <= set(MODEL_FILES)
    for name, held in siglip.files.items():
        assert (words / name).read_bytes() == held
    assert loaded.architecture == siglip.architecture


def test_the_key_knows_what_is_in_the_folder_and_not_where_it_lies(words, tmp_path):
    """A recipe without a tokenizer has the key that it had before there were any."""
    moved = tokenizer_folder(tmp_path / "moved")
    other = tokenizer_folder(tmp_path / "other", captions=[*CAPTIONS, "one more word"])
    here, there, else_ = (
        ModelConfig(architecture=SMALL_SIGLIP, tokenizer=str(folder))
        for folder in (words, moved, other)
    )
    assert here.keyed() == there.keyed() == {"name": None, "architecture": SMALL_SIGLIP}
    assert here.inputs() == there.inputs()
    assert set(here.inputs()) == {"tokenizer"}
    assert here.inputs() != else_.inputs()
    (moved / "README.md").write_text("another file")
    assert here.inputs() == there.inputs()
    plain = ModelConfig(name="RN50")
    assert plain.keyed() == {"name": "RN50", "architecture": None}
    assert (plain.inputs(), plain.files()) == ({}, {})


def test_a_committed_section_is_read_again_from_the_model_folder(siglip, words, tmp_path):
    """What normalizer diagnostics do: keys have no places, and the folder holds what lay there."""
    save_towers(siglip, tmp_path)
    recipe = ModelConfig(architecture=SMALL_SIGLIP, tokenizer=str(words))
    again = ModelConfig.model_validate(with_places(recipe.keyed(), str(tmp_path)))
    assert again.inputs() == recipe.inputs()
    assert again.model_cfg() == recipe.model_cfg()


def test_planning_loads_neither_torch_nor_transformers(words):
    """Key and checks of a recipe are read from the folder's files alone."""
    program = (
        "import json, sys\n"
        "from neuclip.training.config import TrainConfig\n"
        "from neuclip.training.stage import TRAIN\n"
        "config = TrainConfig(model=json.loads(sys.argv[1]))\n"
        "TRAIN.check(config), TRAIN.inputs(config)\n"
        "assert not {'torch', 'open_clip', 'transformers', 'tokenizers'} & set(sys.modules)\n"
    )
    model = {"architecture": SMALL_SIGLIP, "tokenizer": str(words)}
    subprocess.run([sys.executable, "-c", program, json.dumps(model)], check=True)


def test_any_architecture_takes_a_tokenizer(words, tmp_path):
    towers = create_towers(ModelConfig(architecture=CLIP_WITH_WORDS, tokenizer=str(words)), seed=0)
    save_towers(towers, tmp_path)
    found = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(CAPTIONS)
    assert torch.equal(towers.tokenize(CAPTIONS), found)
    assert found.max() < 64


def test_siglip_without_a_tokenizer_is_told_what_to_do():
    with pytest.raises(ValidationError, match=r"network; give train\.model\.tokenizer"):
        ModelConfig(name="ViT-B-16-SigLIP")


BAD_FOLDERS = [
    ({"tokenizer.json": {"model__dropout": 0.1}}, r"dropout = 0\.1.*at random"),
    ({"tokenizer.json": {"model": None}}, "is not a tokenizer"),
    ({"tokenizer_config.json": {"tokenizer_class": None}}, "names no tokenizer_class"),
    ({"tokenizer_config.json": {"auto_map": {"AutoTokenizer": "x.Y"}}}, "auto_map.*program"),
    ({"tokenizer_config.json": {"trust_remote_code": True}}, "trust_remote_code.*program"),
    (
        {"tokenizer_config.json": {"sp_model_kwargs": {"enable_sampling": True}}},
        "enable_sampling.*at random",
    ),
    ({"tokenizer_config.json": {"pad_token": None}}, "pad token"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_FOLDERS)
def test_a_folder_that_must_not_be_used_is_refused(tmp_path, changes, message):
    folder = tokenizer_folder(tmp_path)
    for name, fields in changes.items():
        change(folder, name, **fields)
    with pytest.raises(ConfigError, match=message):
        create_towers(ModelConfig(architecture=SMALL_SIGLIP, tokenizer=str(folder)), seed=0)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, name):
    folder = tokenizer_folder(tmp_path)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"has no {name}.*save_pretrained"):
        ModelConfig(architecture=SMALL_SIGLIP, tokenizer=str(folder)).files()
    (folder / name).write_text("{broken")
    with pytest.raises(ConfigError, match=f"{name} is not JSON"):
        ModelConfig(architecture=SMALL_SIGLIP, tokenizer=str(folder)).files()


def test_a_place_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="/nowhere has no tokenizer"):
        ModelConfig(architecture=SMALL_SIGLIP, tokenizer="/nowhere").files()


@pytest.mark.parametrize(
    ("change_of_text", "message"),
    [
        ({"vocab_size": 8}, r"ids up to \d+, and the text tower reads ids below its vocab_size 8"),
        ({"pool_type": "argmax"}, "takes its embedding at token"),
        ({"pool_type": "eos", "eos_id": 3}, r"takes its embedding at token 3 .*pool_type eos"),
        ({"tokenizer_kwargs": {"subfolder": "x"}}, "subfolder is no setting"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_tower_is_refused(words, change_of_text, message):
    text_cfg = {**SMALL_SIGLIP["text_cfg"], **change_of_text}
    config = ModelConfig(architecture={**SMALL_SIGLIP, "text_cfg": text_cfg}, tokenizer=str(words))
    with pytest.raises(ConfigError, match=message):
        create_towers(config, seed=0)


@pytest.mark.parametrize("mask", ["simple", "random", "shuffle", "syntax"])
def test_tokens_that_are_drawn_at_random_are_refused_wherever_a_configuration_enters(
    siglip, tmp_path, mask
):
    text_cfg = {**SMALL_SIGLIP["text_cfg"], "tokenizer_kwargs": {"reduction_mask": mask}}
    architecture = {**SMALL_SIGLIP, "text_cfg": text_cfg}
    with pytest.raises(ValidationError, match=r"reduction_mask = .*at random"):
        ModelConfig(architecture=architecture, tokenizer=str(tmp_path))
    save_towers(siglip, tmp_path)
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": architecture, "preprocess_cfg": {}}))
    with pytest.raises(ConfigError, match=r"reduction_mask = .*at random"):
        load_towers(tmp_path)


def test_a_model_folder_whose_tokenizer_is_gone_is_refused(siglip, tmp_path):
    save_towers(siglip, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"hf_tokenizer_name.*network"):
        load_towers(tmp_path)


def test_without_the_library_the_error_says_how_to_install_it(words, monkeypatch):
    found = importlib.util.find_spec

    def is_there(name, *rest):
        return None if name == "transformers" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", is_there)
    with pytest.raises(ConfigError, match=r"pip install 'neuclip\[hf\]'"):
        ModelConfig(architecture=SMALL_SIGLIP, tokenizer=str(words)).files()
