import io
import math

import numpy as np
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, image_transform
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from training.runs import ARCHITECTURE

from neuclip.foundation.randomness import generator
from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers
from neuclip.towers.transforms import crop_box, training_pixels
from neuclip.training.encoders import Encoders

SCALE = (0.9, 1.0)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(64, 64), (100, 70), (31, 47), (400, 90), (120, 190), (1, 1)])
@pytest.mark.parametrize("image_px", [32, 80])
def test_pixels_equal_open_clips_for_the_same_crop(size, image_px, monkeypatch):
    """Oracle: open_clip's own training transform, its crop set to the one that was drawn."""
    image = noise(*size)
    left, top, width, height = crop_box(size, generator(5, sample_id=8), scale=SCALE)
    monkeypatch.setattr(RandomResizedCrop, "get_params", lambda *_: (top, left, height, width))
    theirs = image_transform(image_px, is_train=True)(image)
    pixels = training_pixels(encoded(image), generator(5, sample_id=8), image_px=image_px)
    assert pixels.shape == (3, image_px, image_px)
    assert pixels.dtype == torch.uint8
    mean, std = (torch.tensor(x)[:, None, None] for x in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    levels = (theirs * std + mean) * 255
    difference = (pixels - levels).abs()
    assert difference.max() < 2.01
    assert (difference > 1.01).sum() <= 1
    assert (difference > 0.5).float().mean() < 0.02


def test_the_device_normalises_as_open_clip_does():
    """Oracle: open_clip's ToTensor and Normalize, on an image that its crop and resize leave as it is."""
    towers = create_towers(ModelConfig(architecture=ARCHITECTURE), seed=0)
    encoders, seen = Encoders(towers), []
    image = noise(16, 16)
    expected = image_transform(16, is_train=False)(image)
    towers.model.visual.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None]
    ours = encoders({"main": pixels}, {})[0]["main"]
    theirs = encoders({"main": seen[0]}, {})[0]["main"]
    assert torch.equal(ours.unit, theirs.unit)
    torch.testing.assert_close(seen[0][0], expected, rtol=0, atol=2e-6)


def photo(width, height):
    """Edges and texture with the spectrum of a photograph: noise of every scale, each as strong as the last."""
    draw = np.random.default_rng(3)
    total = np.zeros((height, width, 3))
    for cells in (3, 8, 21, 55, 144):
        grid = draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((total / 5).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "reduced_to"),
    [((640, 480), (160, 120)), ((1001, 803), (251, 201)), ((1300, 1100), (163, 138))],
)
def test_a_scaled_decode_is_near_the_whole_one(size, reduced_to, monkeypatch):
    """Oracle: the same crop of the image decoded whole."""
    content, sizes = encoded(photo(*size), "JPEG", quality=92), []

    def crops(size, draw, *, scale):
        sizes.append(size)
        return crop_box(size, draw, scale=scale)

    monkeypatch.setattr("neuclip.towers.transforms.crop_box", crops)
    whole, scaled = (
        training_pixels(content, generator(5, sample_id=1), image_px=48, scaled_decode=choice)
        for choice in (False, True)
    )
    assert sizes == [size, reduced_to]
    assert 0 < (whole.int() - scaled.int()).abs().float().mean() < 4


def test_an_image_that_is_not_much_larger_is_decoded_whole():
    content = encoded(photo(170, 170), "JPEG")
    one, other = (
        training_pixels(content, generator(5, sample_id=1), image_px=80, scaled_decode=choice)
        for choice in (False, True)
    )
    assert torch.equal(one, other)


def test_the_crop_is_keyed():
    content = encoded(noise(64, 48))
    one, same, other = (
        training_pixels(content, generator(5, sample_id=i), image_px=32) for i in (1, 1, 2)
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
