"""From an RGB image to the pixels of a tower, for evaluation and for training."""

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from neuclip.acquired.images import decode_pixels, whole
from neuclip.loading.edits.config import AugmentConfig

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


def training_pixels(
    content: bytes,
    generator: np.random.Generator,
    *,
    image_px: int,
    scale: tuple[float, float] = (0.9, 1.0),
    scaled_decode: bool = False,
    augment: AugmentConfig | None = None,
) -> UInt8[Tensor, "3 H W"]:
    """Decode an image file, crop a random part of it and resize that to a square.

    The last step of open_clip's training transform, (value / 255 - mean) / std, is left to the device.

    Args:
        generator: draws the crop; keyed by sample, so that no worker's history matters.
        image_px: side of the result, H = W.
        scale: least and most share of the area that the crop covers.
        augment: what happens to the pixels afterwards; None is nothing.
        scaled_decode: decode a JPEG at 1/2, 1/4 or 1/8 of its sides where every crop still has twice `image_px`.
    Raises: DataError: if the image does not decode.
    Source: RandomResizedCrop(scale, bicubic) of open_clip's training transform; equals it to 1 of 255 (three
        values in a million to 2), with a scaled decode to 4 on average; see tests/towers/test_transforms.py.
    """
    reduction = functools.partial(_reduction, image_px=image_px, least=scale[0])
    pixels = torch.from_numpy(
        decode_pixels(content, reduction=reduction if scaled_decode else whole)
    )
    height, width, _ = pixels.shape
    left, top, crop_width, crop_height = crop_box((width, height), generator, scale=scale)
    crop = pixels[top : top + crop_height, left : left + crop_width]
    resized = _resized(crop[None].permute(0, 3, 1, 2), image_px)[0]
    if augment is not None:
        from neuclip.loading.edits.augment import augment as changed

        rows = resized.permute(1, 2, 0).contiguous().numpy()
        resized = torch.from_numpy(changed(rows, generator, augment)).permute(2, 0, 1)
    return resized.contiguous()


def _resized(pixels: UInt8[Tensor, "1 3 H W"], px: int) -> UInt8[Tensor, "1 3 px px"]:
    """Resize by antialiased bicubic interpolation in integers, as Pillow 13 does but with vector instructions.

    torch takes channels-last pixels as they are and makes the horizontal pass first. So does Pillow unless the
    image is much taller than wide; in noise, what is clipped between the passes differs by up to 20 of 255.
    """
    resize = functools.partial(interpolate, mode="bicubic", antialias=True)
    height, width = pixels.shape[2:]
    if height - px > 2 * max(width - px, 0):
        pixels = resize(pixels, size=(px, width))
    return resize(pixels, size=(px, px))


def _reduction(size: tuple[int, int], *, image_px: int, least: float) -> int:
    """Return the largest of 1, 2, 4, 8 that leaves the smallest crop twice the sides of the result."""
    width, height = size
    smallest = min(width, height, math.sqrt(width * height * least * _ASPECT_RATIOS[0]))
    return next((by for by in (8, 4, 2) if smallest / by >= 2 * image_px), 1)


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
