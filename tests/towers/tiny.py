"""A tiny architecture, images whose colour says what they show, and tars of them."""

import io
import tarfile

import numpy as np
import open_clip
import torch
from PIL import Image

from neuclip.acquired.images import decode_rgb
from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers
from neuclip.towers.transforms import evaluation_transform

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 230),
    "yellow": (230, 220, 20),
    "violet": (150, 20, 200),
    "gray": (128, 128, 128),
    "black": (5, 5, 5),
}


def tiny_towers(seed=1):
    return create_towers(ModelConfig(architecture=TINY), seed=seed)


def picture(colour, seed=0, kind="JPEG"):
    """Return an image file of a colour with a little noise, 40 x 36 pixels."""
    noise = np.random.default_rng(seed).integers(-15, 16, (36, 40, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def train_a_little(towers, steps=25):
    """Teach the towers the colours by open_clip's own loss and steps along the sign of the gradient."""
    transform = evaluation_transform(towers.preprocess)
    loss = open_clip.ClipLoss()
    tokens = towers.tokenize([f"a photo of {c}" for c in COLOURS])
    pixels = [
        torch.stack([transform(decode_rgb(picture(c, seed=s))) for c in COLOURS]) for s in range(5)
    ]
    weights = [w for name, w in towers.model.named_parameters() if name != "token_embedding.weight"]
    towers.model.train()
    for step in range(steps):
        value = loss(
            towers.image_features(pixels[step % 5]),
            towers.text_features(tokens),
            towers.model.logit_scale.exp(),
        )
        for weight, slope in zip(weights, torch.autograd.grad(value, weights), strict=True):
            weight.data -= 2e-3 * slope.sign()
    towers.model.eval()
    return towers
