"""From an RGB image to the pixels of a tower, for evaluation and for training."""

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

_ASPECT_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10


def evaluation_transform(
    preprocess: dict[str, Any],
) -> Callable[[Image.Image], Float[Tensor, "3 H W"]]:
    """Return open_clip's own transform for a `preprocess_cfg`."""
    return cast(
        "Callable[[Image.Image], Tensor]",
        image_transform_v2(PreprocessCfg(**preprocess), is_train=False),
    )


def training_image(
    image: Image.Image,
    generator: np.random.Generator,
    *,
    image_px: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    scale: tuple[float, float] = (0.9, 1.0),
) -> Float[Tensor, "3 H W"]:
    """Crop a random part of an RGB image, resize it to a square and normalise it.

    Args:
        generator: draws the crop; keyed by sample, so that no worker's history matters.
        image_px: side of the result.
        mean: of each channel, of values in 0..1.
        std: of each channel, of values in 0..1.
        scale: least and most share of the area that the crop covers.
    Source: open_clip's training transform, RandomResizedCrop(scale, bicubic), see
        tests/towers/test_transforms.py.
    """
    left, top, width, height = crop_box(image.size, generator, scale=scale)
    cropped = image.crop((left, top, left + width, top + height))
    resized = cropped.resize((image_px, image_px), Image.Resampling.BICUBIC)
    return normalised(resized, mean=mean, std=std)


def crop_box(
    size: tuple[int, int], generator: np.random.Generator, *, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw (left, top, width, height) in pixels with the distribution of torchvision's RandomResizedCrop.

    The area is uniform in `scale`, the aspect ratio log-uniform in 3/4 .. 4/3, the place uniform; where ten
    draws do not fit into the image, the largest centred crop within these ratios is taken.
    """
    width, height = size
    low, high = (math.log(ratio) for ratio in _ASPECT_RATIOS)
    draws = generator.random((_TRIES, 4))
    for area_draw, ratio_draw, top_draw, left_draw in draws.tolist():
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_draw)
        ratio = math.exp(low + (high - low) * ratio_draw)
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(top_draw * (height - crop_height + 1))
            left = int(left_draw * (width - crop_width + 1))
            return left, top, crop_width, crop_height
    crop_width = min(width, round(height * _ASPECT_RATIOS[1]))
    crop_height = min(height, round(width / _ASPECT_RATIOS[0]))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def normalised(
    image: Image.Image, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "3 H W"]:
    """Turn an RGB image into float32 (value / 255 - mean) / std, in one pass over the pixels."""
    factor, offset = _factor_and_offset(mean, std)
    channels = np.asarray(image).transpose(2, 0, 1)
    pixels = np.empty(channels.shape, dtype=np.float32)
    np.multiply(channels, factor, out=pixels)
    pixels -= offset
    return torch.from_numpy(pixels)


@functools.cache
def _factor_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return 1 / (255 std) and mean / std, each [3, 1, 1]."""
    factor, offset = 1 / (255 * np.asarray(std)), np.asarray(mean) / np.asarray(std)
    return factor.astype(np.float32)[:, None, None], offset.astype(np.float32)[:, None, None]
