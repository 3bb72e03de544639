"""Pictures with structure at every scale, from a number."""

import io

import numpy as np
from PIL import Image


def scene(seed, size=(96, 80)):
    """A picture with structure at every scale."""
    random = np.random.default_rng(seed)
    layers = [random.uniform(0, 255, (px, px, 3)) for px in (2, 4, 8, 16)]
    images = [
        np.asarray(
            Image.fromarray(layer.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC),
            np.float32,
        )
        for layer in layers
    ]
    return Image.fromarray(np.clip(sum(images) / 4 * 1.6 - 76, 0, 255).astype(np.uint8))


def file_of(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
