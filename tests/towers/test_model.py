import logging

import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from towers.tiny import TINY

from neuclip.foundation.errors import CheckpointError, ConfigError
from neuclip.towers.config import ModelConfig
from neuclip.towers.files import CONFIG_FILE, WEIGHTS_FILE
from neuclip.towers.folder import load_towers, save_towers
from neuclip.towers.model import create_towers
from neuclip.towers.transforms import evaluation_transform


@pytest.fixture(scope="module")
def towers():
    return create_towers(ModelConfig(architecture=TINY), seed=1)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state(towers):
    """Oracle: the same call again, after the global generator was moved."""
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again = create_towers(ModelConfig(architecture=TINY), seed=1)
    other = create_towers(ModelConfig(architecture=TINY), seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    mine, same, different = (t.model.state_dict() for t in (towers, again, other))
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert not torch.equal(mine["visual.proj"], different["visual.proj"])


def test_towers_describe_themselves(towers):
    assert (towers.image_px, towers.embed_dim) == (32, 32)
    assert towers.mean == open_clip.OPENAI_DATASET_MEAN
    assert towers.std == open_clip.OPENAI_DATASET_STD
    tokens = towers.tokenize(["a cat", "two dogs in the snow " * 20])
    assert tokens.shape == (2, 16)
    assert tokens.dtype == torch.int64
    features = towers.text_features(tokens)
    assert torch.allclose(features.norm(dim=1), torch.ones(2), atol=1e-6)


def test_a_named_architecture_is_open_clips_own():
    """Oracle: open_clip.create_model by name under the same seed."""
    towers = create_towers(ModelConfig(name="ViT-S-32-alt"), seed=3)
    torch.manual_seed(3)
    expected = open_clip.create_model("ViT-S-32-alt").state_dict()
    assert all(torch.equal(expected[k], v) for k, v in towers.model.state_dict().items())


def test_open_clip_reads_the_folder_and_sees_the_same_features(towers, tmp_path):
    """Oracle: open_clip's own loader, transform and tokenizer, from the folder alone."""
    save_towers(towers, tmp_path)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    texts = ["a photo of a cat", "snow"]
    mine = evaluation_transform(towers.preprocess)(image)
    towers.model.eval()
    model.eval()
    with torch.inference_mode():
        assert torch.equal(mine, transform(image))
        assert torch.equal(
            towers.image_features(mine[None]), model.encode_image(mine[None], normalize=True)
        )
        assert torch.equal(
            towers.text_features(towers.tokenize(texts)),
            model.encode_text(tokenize(texts), normalize=True),
        )


def test_save_load_save_gives_the_same_bytes(towers, tmp_path):
    save_towers(towers, tmp_path / "a")
    loaded = load_towers(tmp_path / "a")
    save_towers(loaded, tmp_path / "b")
    assert not loaded.model.training
    assert loaded.preprocess == towers.preprocess
    assert loaded.architecture == towers.architecture
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValidationError, match=r"ViT-B32.*Did you mean 'ViT-B-32'"):
        ModelConfig(name="ViT-B32")


@pytest.mark.parametrize("name", ["hf-hub:org/model", "local-dir:/tmp"])
def test_a_name_never_reaches_outside(name):
    with pytest.raises(ValidationError, match="none of the"):
        ModelConfig(name=name)


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("vision_cfg", {"widht": 3}, "widht"),
        ("vision_cfg", {"image_size": [32, 16]}, "square"),
        ("vision_cfg", {"timm_model_name": "no_such_model"}, "no_such_model"),
        ("text_cfg", {"heads": 5}, "embed_dim"),
    ],
)
def test_a_bad_architecture_is_refused_with_open_clips_reason(part, change, reason):
    architecture = {**TINY, part: {**TINY[part], **change}}
    with pytest.raises(ConfigError, match=reason):
        create_towers(ModelConfig(architecture=architecture), seed=0)


def test_a_folder_that_is_not_whole_is_refused(towers, tmp_path):
    with pytest.raises(CheckpointError, match=CONFIG_FILE):
        load_towers(tmp_path)
    save_towers(towers, tmp_path)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_towers(tmp_path)


def test_building_leaves_logging_alone(caplog):
    handlers = list(logging.getLogger().handlers)
    create_towers(ModelConfig(architecture=TINY), seed=0)
    assert logging.getLogger().handlers == handlers
    assert not caplog.records
