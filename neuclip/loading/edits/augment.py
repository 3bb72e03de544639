"""Strong augmentation of an image after its crop, as MoCo v2 (arXiv 2003.04297), SLIP and DeCLIP make their views."""

import cv2
import numpy as np
from jaxtyping import UInt8

from neuclip.loading.edits.config import AugmentConfig

Pixels = UInt8[np.ndarray, "H W 3"]

cv2.setNumThreads(0)  # each loading process has one core


def augment(pixels: Pixels, draws: np.random.Generator, config: AugmentConfig) -> Pixels:
    """Return an image with other colours, perhaps grey, blurred or mirrored.

    The order is torchvision's: brightness, contrast, saturation and hue in an order drawn anew, then grey, blur, and
    mirror image. How many numbers are drawn does not depend on what they say.

    Args:
        draws: keyed by what the edit is for; the same key gives the same image.
    Source: MoCo v2's `aug_plus`; each change equals torchvision's to 2 of 255, see tests/loading/test_augment.py.
    """
    is_jittered, is_grey, is_blurred, is_flipped = draws.random(4) < (
        config.jitter_share,
        config.grey_share,
        config.blur_share,
        config.flip_share,
    )
    strengths = draws.uniform(-1, 1, size=4) * config.jitter
    order, sigma = draws.permutation(4), draws.uniform(*config.blur_sigma)
    if is_jittered:
        for change in order:
            pixels = _CHANGES[change](pixels, float(strengths[change]))
    if is_grey:
        pixels = _grey(pixels)
    if is_blurred:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(sigma))
    return cv2.flip(pixels, 1) if is_flipped else pixels


def brighten(pixels: Pixels, change: float) -> Pixels:
    """Multiply all values by 1 + change."""
    return cv2.LUT(pixels, _table(1 + change, 0.0))


def contrast(pixels: Pixels, change: float) -> Pixels:
    """Move all values away from the mean grey of the image, by a factor of 1 + change."""
    mean = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean()
    return cv2.LUT(pixels, _table(1 + change, -change * float(mean)))


def saturate(pixels: Pixels, change: float) -> Pixels:
    """Move each pixel away from its own grey, by a factor of 1 + change."""
    return cv2.addWeighted(pixels, 1 + change, _grey(pixels), -change, 0)


def turn_hue(pixels: Pixels, change: float) -> Pixels:
    """Turn the hues by a share of the circle."""
    turned = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    turned[..., 0] += np.uint8(round(change * 256) % 256)
    return cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)


_CHANGES = (brighten, contrast, saturate, turn_hue)


def _grey(pixels: Pixels) -> Pixels:
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _table(factor: float, shift: float) -> UInt8[np.ndarray, " 256"]:
    """Return what each value of a channel becomes."""
    return np.clip(np.arange(256) * factor + shift + 0.5, 0, 255).astype(np.uint8)
