import math

import numpy as np
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, functional

from neuclip.foundation.randomness import generator
from neuclip.towers.transforms import crop_box, training_image

SCALE = (0.9, 1.0)
NORMAL = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(64, 64), (100, 70), (31, 47), (400, 90)])
@pytest.mark.parametrize("image_px", [32, 80])
def test_pixels_equal_torchvision_for_the_same_crop(size, image_px):
    """Oracle: torchvision's resized_crop, to_tensor and normalize, on the crop that was drawn."""
    image = noise(*size)
    left, top, width, height = crop_box(size, generator(5, sample_id=8), scale=SCALE)
    crop = functional.resized_crop(
        image, top, left, height, width, [image_px] * 2, InterpolationMode.BICUBIC
    )
    expected = functional.normalize(
        functional.to_tensor(crop), list(OPENAI_DATASET_MEAN), list(OPENAI_DATASET_STD)
    )
    pixels = training_image(image, generator(5, sample_id=8), image_px=image_px, **NORMAL)
    assert pixels.shape == (3, image_px, image_px)
    assert pixels.is_contiguous()
    torch.testing.assert_close(pixels, expected, rtol=0, atol=2e-6)


def test_the_crop_is_keyed():
    image = noise(64, 48)
    one, same, other = (
        training_image(image, generator(5, sample_id=i), image_px=32, **NORMAL) for i in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("size", "scale"), [((64, 64), (0.9, 1.0)), ((90, 60), (0.3, 1.0))])
def test_crops_are_distributed_as_torchvisions(size, scale):
    """Oracle: RandomResizedCrop.get_params; two-sample Kolmogorov-Smirnov on each number of the box."""
    count = 4000
    torch.manual_seed(0)
    image = noise(*size)
    theirs = [
        RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)
    ]
    mine = [crop_box(size, generator(0, sample_id=i), scale=scale) for i in range(count)]
    for column, (left, right) in enumerate(zip((1, 0, 3, 2), (0, 1, 2, 3), strict=True)):
        a = np.sort([box[left] for box in theirs])
        b = np.sort([box[right] for box in mine])
        points = np.union1d(a, b)
        distance = np.abs(
            np.searchsorted(a, points, "right") - np.searchsorted(b, points, "right")
        ).max()
        assert distance / count < 1.95 * math.sqrt(2 / count), column  # p = 0.001


@pytest.mark.parametrize("size", [(400, 90), (90, 400), (1, 1), (1, 500)])
def test_an_image_that_is_too_long_is_cropped_as_torchvision_does(size):
    """Oracle: RandomResizedCrop.get_params, which falls back to its centred crop."""
    top, left, height, width = RandomResizedCrop.get_params(
        noise(*size), [0.9, 1.0], [3 / 4, 4 / 3]
    )
    assert crop_box(size, generator(0), scale=SCALE) == (left, top, width, height)
