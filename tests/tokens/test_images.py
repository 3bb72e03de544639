"""Policies for patches. Oracles: the laws of each policy by hand, over many draws."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from neuclip.foundation.errors import ConfigError
from neuclip.loading.visits import Visit
from neuclip.tokens.config import ImageTokensConfig
from neuclip.tokens.images.policy import build_patch_policy
from neuclip.tokens.patch_grid import patch_px, patches_a_side

SECTIONS = TypeAdapter(ImageTokensConfig)


def policy(side, **section):
    return build_patch_policy(SECTIONS.validate_python(section), side)


def draws(number=0):
    return np.random.default_rng(number)


@given(st.integers(1, 20), st.fractions(0, 1, max_denominator=500), st.integers(0, 2**32))
def test_random_keeps_so_many_patches_each_once_in_order(side, keep, seed):
    count = side * side
    if keep * count < 1:
        return
    nearest = int(count * keep + Fraction(1, 2))
    for rounding, expected in (("nearest", nearest), ("floor", int(count * keep))):
        found = policy(side, name="random", keep=str(keep), rounding=rounding)
        if expected == count:
            assert found is None
            continue
        kept = found(draws(seed))
        assert found.num_kept == len(kept) == expected
        assert (np.diff(kept) > 0).all()
        assert 0 <= kept.min() <= kept.max() < count


def test_random_draws_every_set_of_patches_alike():
    found = policy(2, name="random", keep="1/2")
    seen = Counter(tuple(found(draws(seed))) for seed in range(3000))
    assert len(seen) == 6
    assert max(seen.values()) - min(seen.values()) < 150  # 500 each, standard deviation 20


def test_a_share_is_exact():
    """CLIPA's own arithmetic is floor in binary numbers: 100 patches with a rate of 0.9 leave 9 there."""
    assert policy(10, name="random", keep=0.1).num_kept == 10
    assert policy(24, name="random", keep=0.6).num_kept == 346  # 345.6; CLIPA's code has 345
    assert policy(24, name="random", keep=0.6, rounding="floor").num_kept == 345
    assert SECTIONS.validate_python({"name": "random", "keep": 0.3}).keep == Fraction(3, 10)
    assert SECTIONS.validate_python({"name": "random", "keep": 0.3}).keyed()["keep"] == "3/10"


def test_grid_keeps_one_patch_of_every_window():
    """Oracle: rows and columns 0, 2, 4, ... for the fixed place; for a drawn one, each window has exactly one."""
    fixed = policy(14, name="grid")
    rows, columns = np.divmod(fixed(draws()), 14)
    assert sorted(set(rows)) == sorted(set(columns)) == list(range(0, 14, 2))
    assert len(rows) == fixed.num_kept == 49
    drawn = policy(14, name="grid", place="drawn")
    seen = set()
    for seed in range(30):
        rows, columns = np.divmod(drawn(draws(seed)), 14)
        assert len(set(zip(rows // 2, columns // 2, strict=True))) == 49
        seen |= set(zip(rows % 2, columns % 2, strict=True))
    assert len(seen) == 4


@pytest.mark.parametrize(("side", "keep"), [(14, "1/4"), (7, "10/49"), (6, "1"), (5, "1/25")])
def test_block_is_a_full_rectangle_anywhere(side, keep):
    found = policy(side, name="block", keep=keep)
    if found is None:
        assert keep == "1"
        return
    seen, shapes = set(), set()
    for seed in range(800):
        kept = found(draws(seed))
        rows, columns = np.divmod(kept, side)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height * width == len(kept) == len(set(kept)) == found.num_kept
        assert (np.diff(kept) > 0).all()
        seen |= set(kept)
        shapes.add((height, width))
    assert seen == set(range(side * side))
    assert all((width, height) in shapes for height, width in shapes)


def test_the_same_visit_has_the_same_patches_and_others_have_others():
    found = policy(14, name="random", keep="1/4")
    one, again, epoch, sample, seed, view = (
        tuple(found(visit.draws("patches", name)))
        for visit, name in [
            (Visit(5, 1, 2), "main"),
            (Visit(5, 1, 2), "main"),
            (Visit(5, 2, 2), "main"),
            (Visit(5, 1, 3), "main"),
            (Visit(6, 1, 2), "main"),
            (Visit(5, 1, 2), "second"),
        ]
    )
    assert one == again
    assert len({one, epoch, sample, seed, view}) == 5


@pytest.mark.parametrize(
    ("side", "section", "message"),
    [
        (7, {"name": "grid"}, "7 x 7 patches"),
        (4, {"name": "random", "keep": "1/17"}, "at least one is needed"),
        (14, {"name": "block", "keep": "23/196"}, "keep 22/196 and 24/196"),
    ],
)
def test_a_policy_that_does_not_fit_the_grid_is_refused(side, section, message):
    with pytest.raises(ConfigError, match=message):
        policy(side, **section)


@pytest.mark.parametrize("keep", [0, -0.5, "5/4", "x", "1/0", float("nan")])
def test_a_share_that_is_none_is_refused(keep):
    with pytest.raises(ValidationError):
        policy(8, name="random", keep=keep)


@pytest.mark.parametrize(
    ("vision", "patch", "side"),
    [
        ({"layers": 12, "width": 768, "patch_size": 16, "image_size": 224}, 16, 14),
        ({"layers": 12, "image_size": 96}, 16, 6),
        ({"layers": [3, 4, 6, 3], "image_size": 224}, None, None),
        ({"timm_model_name": "vit_base_patch16_siglip_224", "image_size": 224}, 16, 14),
        ({"timm_model_name": "vit_so400m_patch14_siglip_384", "image_size": 378}, 14, 27),
        ({"timm_model_name": "convnext_base", "image_size": 224}, None, None),
        ({"timm_model_name": "swin_base_patch4_window7_224"}, None, None),
        ({"timm_model_name": "vit_relpos_base_patch16_224"}, None, None),
        ({"timm_model_name": "vit_base_patch16_rope_224"}, None, None),
        ({"timm_model_name": "vit_base_patch16_dinov3"}, None, None),
        ({"timm_model_name": "test_resnet"}, None, None),
    ],
)
def test_the_grid_of_a_tower_by_its_configuration(vision, patch, side):
    assert (patch_px(vision), patches_a_side(vision)) == (patch, side)


def test_timm_agrees_on_which_of_its_models_are_plain_vits():
    """Oracle: timm's own registry; each that is taken for one comes from its file of plain ViTs."""
    import timm
    from timm.models import model_entrypoint

    taken = [name for name in timm.list_models() if patch_px({"timm_model_name": name})]
    assert len(taken) > 100
    assert {model_entrypoint(name).__module__ for name in taken} == {
        "timm.models.vision_transformer"
    }
