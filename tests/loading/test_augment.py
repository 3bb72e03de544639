"""Strong augmentation. Oracles: torchvision's own functions, and the shares that were asked for."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as torchvision

from neuclip.loading.edits.augment import augment, brighten, contrast, saturate, turn_hue
from neuclip.loading.edits.config import AugmentConfig

NOTHING = {"jitter_share": 0, "grey_share": 0, "blur_share": 0, "flip_share": 0}


def picture(side=48, seed=0):
    """Smooth colours with some edges."""
    draw = np.random.default_rng(seed)
    small = torch.from_numpy(draw.integers(0, 256, (3, 6, 6), dtype=np.uint8))
    pixels = torchvision.resize(small, [side, side], antialias=True).permute(1, 2, 0).numpy().copy()
    pixels[10:20, 5:15] = (250, 3, 128)
    return pixels


def as_torch(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def edited(seed=0, pixels=None, **fields):
    pixels = picture() if pixels is None else pixels
    return augment(pixels, np.random.default_rng(seed), AugmentConfig(**fields))


@pytest.mark.parametrize("change", [-0.4, -0.1, 0.0, 0.25, 0.4])
@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        (brighten, torchvision.adjust_brightness),
        (contrast, torchvision.adjust_contrast),
        (saturate, torchvision.adjust_saturation),
    ],
)
def test_a_change_of_colour_is_torchvisions(own, theirs, change):
    found = own(picture(), change).astype(int)
    expected = theirs(as_torch(picture()), 1 + change).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - expected).max() <= 2
    if change == 0:
        assert np.array_equal(found, picture())


@pytest.mark.parametrize("change", [-0.1, 0.03, 0.1])
def test_a_turn_of_hues_is_torchvisions(change):
    found = turn_hue(picture(), change).astype(int)
    expected = torchvision.adjust_hue(as_torch(picture()), change).permute(1, 2, 0).numpy()
    assert np.abs(found - expected.astype(int)).mean() < 2
    assert np.abs(turn_hue(picture(), 0.0).astype(int) - picture()).max() <= 6  # 8-bit hues


def test_grey_blur_and_mirror_are_torchvisions():
    grey = edited(**NOTHING | {"grey_share": 1}).astype(int)
    expected = torchvision.rgb_to_grayscale(as_torch(picture()), 3).permute(1, 2, 0).numpy()
    assert np.abs(grey - expected.astype(int)).max() <= 1
    assert np.array_equal(edited(**NOTHING | {"flip_share": 1}), picture()[:, ::-1])
    blurred = edited(**NOTHING | {"blur_share": 1, "blur_sigma": (1.5, 1.5)}).astype(int)
    expected = torchvision.gaussian_blur(as_torch(picture()), [11, 11], [1.5, 1.5])
    assert np.abs(blurred - expected.permute(1, 2, 0).numpy().astype(int)).max() <= 2


def test_with_shares_of_0_nothing_happens():
    assert np.array_equal(edited(**NOTHING), picture())


def test_the_same_key_gives_the_same_image_and_another_one_another():
    assert np.array_equal(edited(3), edited(3))
    assert len({edited(seed).tobytes() for seed in range(20)}) >= 15  # some stay as they are


def test_shares_are_those_asked_for():
    count, flat = 2000, np.full((4, 4, 3), (200, 40, 90), np.uint8)
    flat[:, :2] = (20, 90, 220)
    found = [edited(seed, flat, blur_share=0, jitter_share=0) for seed in range(count)]
    grey = np.mean([np.ptp(one, axis=2).max() == 0 for one in found])
    mirrored = np.mean([np.array_equal(one, flat[:, ::-1]) for one in found])
    assert grey == pytest.approx(0.2, abs=0.03)
    assert mirrored == pytest.approx(0.8 * 0.5, abs=0.04)
    jittered = np.mean(
        [
            not np.array_equal(edited(seed, flat, blur_share=0, grey_share=0, flip_share=0), flat)
            for seed in range(count)
        ]
    )
    assert jittered == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "a hue in"),
        ({"jitter": (1.4, 0.4, 0.4, 0.1)}, "three factors in"),
        ({"blur_sigma": (2, 1)}, "increasing pair"),
        ({"flip_share": 1.5}, "less than or equal to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        AugmentConfig(**fields)
