"""What training asks of towers. Oracle: open_clip's own modules, called by hand."""

import json

import pytest
import torch
from safetensors.torch import load_file
from towers.hub_folders import CAPTIONS
from towers.tiny import TINY, tiny_towers

from neuclip.foundation.errors import ConfigError
from neuclip.towers.config import ModelConfig
from neuclip.towers.folder import load_towers, save_towers
from neuclip.towers.model import create_towers
from neuclip.training.config import TrainConfig
from neuclip.training.stage import TRAIN

COCA = {
    **TINY,
    "custom_text": True,
    "vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True, "output_tokens": True},
    "text_cfg": {**TINY["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2}
    | {"layers": 1, "attn_pooler_heads": 2},
}
FEATURES = ModelConfig(architecture=TINY, text={"kind": "features", "width": 12})


def towers_of(architecture):
    towers = create_towers(ModelConfig(architecture=architecture), seed=1)
    towers.model.eval()
    return towers


@pytest.mark.parametrize(
    "architecture", [TINY, {**TINY, "custom_text": True}, COCA], ids=["clip", "custom", "coca"]
)
def test_embeddings_are_raw_and_features_are_those_of_unit_norm(architecture):
    towers = towers_of(architecture)
    tokens, pixels = towers.tokenize(CAPTIONS), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for raw, unit in (
            (towers.encode_image(pixels), towers.image_features(pixels)),
            (towers.encode_text(tokens), towers.text_features(tokens)),
        ):
            assert torch.equal(torch.nn.functional.normalize(raw, dim=-1), unit)
            assert not torch.allclose(raw.norm(dim=1), torch.ones(len(raw)), atol=1e-3)


@pytest.mark.parametrize("is_custom", [False, True])
def test_states_are_those_after_the_final_norm(is_custom):
    """Oracle: the embedding of a text is its state at the end token, projected."""
    towers = towers_of({**TINY, "custom_text": is_custom})
    text = towers.model.text if is_custom else towers.model
    tokens = towers.tokenize(CAPTIONS)
    with torch.no_grad():
        raw, states = towers.text_states(tokens)
        assert states.shape == (len(CAPTIONS), 16, 32)
        ends = states[torch.arange(len(CAPTIONS)), tokens.argmax(1)]
        assert torch.equal(ends @ text.text_projection, raw)
        assert torch.equal(raw, towers.encode_text(tokens))
    assert not text.ln_final._forward_hooks


def test_states_have_a_gradient():
    towers = tiny_towers()
    raw, states = towers.text_states(towers.tokenize(CAPTIONS))
    (raw.sum() + states.square().sum()).backward()
    assert towers.model.token_embedding.weight.grad.abs().sum() > 0


def test_a_tower_without_such_states_says_so():
    for towers, inputs in (
        (towers_of(COCA), None),
        (create_towers(FEATURES, seed=0), torch.rand(2, 12)),
    ):
        given = towers.tokenize(CAPTIONS) if inputs is None else inputs
        with pytest.raises(ConfigError, match="no token states after its final norm"):
            towers.text_states(given)


def test_cached_features_take_the_place_of_tokens(tmp_path):
    towers = create_towers(FEATURES, seed=4)
    towers.model.eval()
    features = torch.rand(5, 12)
    save_towers(towers, tmp_path)
    matrix = load_file(tmp_path / "open_clip_model.safetensors")["text.weight"]
    with torch.no_grad():
        torch.testing.assert_close(towers.encode_text(features), features @ matrix.T)
        assert torch.allclose(towers.text_features(features).norm(dim=1), torch.ones(5))
        again = load_towers(tmp_path)
        assert torch.equal(again.encode_text(features), towers.encode_text(features))
        pixels = torch.rand(2, 3, 32, 32)
        assert torch.equal(again.image_features(pixels), towers.image_features(pixels))
    assert towers.text.exports == frozenset()
    towers.model.set_grad_checkpointing()
    with pytest.raises(ConfigError, match="reads cached features of width 12"):
        towers.tokenize(["a photo"])
    assert FEATURES.keyed()["text"] == {"kind": "features", "width": 12}


def test_the_train_stage_refuses_what_it_cannot_feed():
    with pytest.raises(ConfigError, match="kind features reads no texts"):
        TRAIN.check(TrainConfig(model=FEATURES))


def test_a_kind_that_is_not_known_is_refused_by_name(tmp_path):
    save_towers(create_towers(FEATURES, seed=4), tmp_path)
    path = tmp_path / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"]["kind"] = "sound"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="names the text tower 'sound'"):
        load_towers(tmp_path)
