"""Patches left out of an image tower. Oracles: its own parts put together by hand, its output without a policy."""

import pytest
import torch
from towers.tiny import TINY

from neuclip.foundation.errors import ConfigError
from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers
from neuclip.towers.open_clip_towers import place_of_patches

TIMM = {
    "timm_model_name": "vit_tiny_patch16_224",
    "timm_model_pretrained": False,
    "timm_proj": "linear",
    "image_size": 224,
}


def towers_of(**vision):
    architecture = {**TINY, "vision_cfg": {**TINY["vision_cfg"], **vision}}
    return create_towers(ModelConfig(architecture=architecture), seed=1)


def pixels(px, count=3):
    return torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(2))


def some_patches(side, kept, count=3):
    order = torch.rand(count, side * side, generator=torch.Generator().manual_seed(3)).argsort(
        dim=1
    )
    return order[:, :kept].sort(dim=1).values


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        {"pool_type": "avg"},
        {"pos_embed_type": "sin_cos_2d"},
        {"attentional_pool": True, "attn_pooler_queries": 8},
    ],
    ids=["class", "gap", "average", "sin-cos", "attention"],
)
def test_blocks_see_the_class_token_and_the_patches_that_are_kept(vision):
    towers = towers_of(**vision)
    visual, images, patches = towers.model.visual, pixels(32), some_patches(4, 5)
    seen = []
    visual.ln_pre.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    whole = towers.encode_image(images)
    part = towers.encode_image(images, patches)
    for row in range(3):
        assert torch.equal(seen[1][row, 0], seen[0][row, 0])  # the class token's row, to the bit
        assert torch.equal(seen[1][row, 1:], seen[0][row, 1:][patches[row]])
    assert part.shape == whole.shape
    assert not torch.allclose(part, whole)
    expected = visual._pool(visual.transformer(visual.ln_pre(seen[1])))[0]
    if visual.proj is not None:
        expected = expected @ visual.proj
    torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-6)


def test_all_patches_are_as_no_policy():
    towers = towers_of()
    images, every = pixels(32), torch.arange(16).expand(3, -1)
    torch.testing.assert_close(
        towers.encode_image(images, every), towers.encode_image(images), rtol=0, atol=0
    )


def test_nothing_stays_behind():
    """The features after a call with patches are those of before, to the bit."""
    towers = towers_of()
    images = pixels(32)
    before = towers.encode_image(images)
    towers.encode_image(images, some_patches(4, 5))
    assert torch.equal(towers.encode_image(images), before)
    with pytest.raises(RuntimeError):
        towers.encode_image(images, some_patches(4, 5, count=2))
    assert torch.equal(towers.encode_image(images), before)


@pytest.mark.parametrize("changes", [{"timm_pool": "token"}, {"timm_pool": "avg"}])
def test_a_vit_of_timm(changes):
    config = ModelConfig(architecture={**TINY, "vision_cfg": TIMM | changes})
    towers = create_towers(config, seed=1)
    trunk, images, patches = towers.model.visual.trunk, pixels(224), some_patches(14, 5)
    seen = []
    trunk.norm_pre.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    towers.encode_image(images)
    towers.encode_image(images, patches)
    ahead = trunk.num_prefix_tokens
    for row in range(3):
        assert torch.equal(seen[1][row, :ahead], seen[0][row, :ahead])
        assert torch.equal(seen[1][row, ahead:], seen[0][row, ahead:][patches[row]])


@pytest.mark.parametrize(
    "vision",
    [
        {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32},
        {
            "timm_model_name": "test_resnet",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 32,
        },
    ],
)
def test_a_tower_without_patches_is_refused(vision):
    towers = create_towers(
        ModelConfig(
            architecture={**TINY, "vision_cfg": {"timm_model_pretrained": False, **vision}}
        ),
        seed=1,
    )
    with pytest.raises(ConfigError, match="has no place for it"):
        place_of_patches(towers.model)
