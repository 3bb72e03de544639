"""What training asks of towers. Oracle: open_clip's own modules, called by hand."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from towers.hub_folders import CAPTIONS
from towers.tiny import TINY, tiny_towers

from neuclip.foundation.errors import ConfigError
from neuclip.towers.config import ModelConfig
from neuclip.towers.files import ADAPTER_FILE, CONFIG_FILE, WEIGHTS_FILE
from neuclip.towers.folder import load_towers, save_towers
from neuclip.towers.model import create_towers

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


def test_features_take_the_place_of_tokens(tmp_path):
    towers = create_towers(FEATURES, seed=4)
    towers.model.eval()
    features = torch.rand(5, 12)
    save_towers(towers, tmp_path)
    with torch.no_grad():
        assert torch.allclose(towers.text_features(features).norm(dim=1), torch.ones(5))
        again = load_towers(tmp_path)
        assert torch.equal(again.encode_text(features), towers.encode_text(features))
        pixels = torch.rand(2, 3, 32, 32)
        assert torch.equal(again.image_features(pixels), towers.image_features(pixels))
    save_towers(again, tmp_path / "again")
    for name in (CONFIG_FILE, WEIGHTS_FILE, ADAPTER_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert towers.text.exports == {"open_clip_image"}
    with pytest.raises(ConfigError, match="reads features of width 12"):
        towers.tokenize(["a photo"])
    fields = {"kind": "features", "width": 12, "blocks": 4, "expansion": 2}
    assert FEATURES.keyed()["text"] == fields


@pytest.mark.parametrize("is_custom", [False, True])
def test_open_clip_reads_the_image_tower_and_nothing_that_looks_like_texts(tmp_path, is_custom):
    config = ModelConfig(
        architecture={**TINY, "custom_text": is_custom}, text={"kind": "features", "width": 12}
    )
    towers = create_towers(config, seed=4)
    save_towers(towers, tmp_path)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    pixels = torch.rand(2, 3, 32, 32)
    towers.model.eval()
    with torch.no_grad():
        assert torch.equal(model.eval().encode_image(pixels), towers.encode_image(pixels))
        assert not model.encode_text(torch.zeros(2, 1, dtype=torch.int64)).any()
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    with pytest.raises(IndexError):
        model.encode_text(tokenize(["a photo"]))


def test_the_adapter_is_what_is_written(tmp_path):
    """Oracle: the same in float64, from the file; and the number of weights in closed form."""
    towers = create_towers(
        ModelConfig(architecture=TINY, text={"kind": "features", "width": 12, "blocks": 3}), seed=4
    )
    save_towers(towers, tmp_path)
    weights = {k: v.double() for k, v in load_file(tmp_path / ADAPTER_FILE).items()}
    count, width, embed = 3, 12, TINY["embed_dim"]
    in_blocks = count * (4 * width**2 + 5 * width)
    assert sum(w.numel() for w in weights.values()) == (
        in_blocks + 2 * width + width * embed + embed
    )
    features = 50 * torch.randn(6, 12)
    expected = adapted(features.double(), weights, count=count)
    with torch.no_grad():
        found = towers.encode_text(features)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        # The direction of a feature alone counts.
        torch.testing.assert_close(towers.encode_text(features / 1000), found)
        whole = torch.randint(-8, 9, (6, 12)).half()
        assert torch.equal(towers.encode_text(whole), towers.encode_text(whole.float()))


def adapted(x, weights, *, count):
    def norm(x, name):
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = x / x.norm(dim=1, keepdim=True)
    for n in range(count):
        inner = linear(norm(x, f"blocks.{n}.norm"), f"blocks.{n}.up")
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        x = x + linear(inner, f"blocks.{n}.down")
    return linear(norm(x, "norm"), "proj")


def test_computing_blocks_again_gives_the_same_gradient():
    features = torch.randn(6, 12)
    gradients = []
    for again in (False, True):
        towers = create_towers(FEATURES, seed=4)
        towers.model.set_grad_checkpointing(again)
        towers.encode_text(features).square().sum().backward()
        gradients.append([p.grad for p in towers.model.text.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_a_kind_that_is_not_known_is_refused_by_name(tmp_path):
    save_towers(create_towers(FEATURES, seed=4), tmp_path)
    path = tmp_path / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["neuclip"]["text_cfg"]["kind"] = "sound"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="names the text tower 'sound'"):
        load_towers(tmp_path)
