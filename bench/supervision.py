"""What each kind of supervision costs: updates of the product's trainer with ViT-B/32, against one without any; and
what strong augmentation costs.

`python -m bench.supervision` on this machine's CPU, `python -m bench.supervision gpu` on its GPU.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional

from neuclip.distributed.world import World
from neuclip.loading.edits.augment import augment
from neuclip.loading.edits.config import AugmentConfig
from neuclip.objectives.terms.neighbours import Neighbours
from neuclip.training.config import TrainConfig
from neuclip.training.costs import forward_cost
from neuclip.training.example_batch import example_batch
from neuclip.training.job import TrainJob
from neuclip.training.parts import make_trainer
from neuclip.training.phases import Phase
from neuclip.training.trainer import Trainer

CPU_BATCH, CPU_UPDATES, GPU_BATCH, GPU_UPDATES = 32, 1, 512, 20
_AUGMENTED, _TAPS = 64, 13
_VIEWS = {"image_views": {"second": {}}, "text_views": {"second": {}}, "global_views": "all"}
_SIAM = {"siam": {"name": "image_self", "weight": 0.2}}
_WORDS = {"words": {"name": "masked_text", "weight": 0.2, "view": "shared"}}
_OWN_WORDS = {"words": {"name": "masked_text", "weight": 0.2}}
_NEAR = {"near": {"name": "neighbours", "weight": 0.2}}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two views, all pairs": _VIEWS,
    "+ image_self": {**_VIEWS, "terms": _SIAM},
    "+ masked_text, shared": {**_VIEWS, "terms": _WORDS},
    "+ masked_text, separate": {**_VIEWS, "terms": _OWN_WORDS},
    "+ neighbours, queue of 65,536": {**_VIEWS, "terms": _NEAR},
    "DeCLIP: two views and all three": {**_VIEWS, "terms": {**_SIAM, **_WORDS, **_NEAR}},
}


def main() -> None:
    """Compare on the CPU, arm after arm."""
    torch.set_num_threads(1)
    tell_augmentation()
    _tell("processor seconds, best", CPU_BATCH, CPU_UPDATES, time.process_time)


def tell_augmentation() -> None:
    """Print what an image of 224 px costs in a loading process, and as one of a batch of tensors."""
    pixels = np.random.default_rng(0).integers(256, size=(_AUGMENTED, 224, 224, 3), dtype=np.uint8)
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    ways: dict[str, Callable[[], object]] = {
        "OpenCV, image by image": lambda: [
            augment(image, np.random.default_rng(n), AugmentConfig())
            for n, image in enumerate(pixels)
        ],
        "torchvision and Pillow's blur, image by image": lambda: [
            _by_torchvision(image, np.random.default_rng(n)) for n, image in enumerate(tensors)
        ],
        "torch, the batch at once, without the hue": lambda: _batched(tensors),
    }
    print("MoCo v2's augmentation of 224 px, processor ms an image, best of 3")
    for name, way in ways.items():
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            way()
            best = min(best, time.process_time() - start)
        print(f"  {name:46} {1e3 * best / _AUGMENTED:.2f}")


def _by_torchvision(image: Tensor, draws: np.random.Generator) -> Tensor:
    config = AugmentConfig()
    brightness, contrast, saturation, hue = draws.uniform(-1, 1, 4) * config.jitter
    if draws.random() < config.jitter_share:
        image = functional.adjust_brightness(image, 1 + brightness)
        image = functional.adjust_contrast(image, 1 + contrast)
        image = functional.adjust_saturation(image, 1 + saturation)
        image = functional.adjust_hue(image, hue)
    if draws.random() < config.grey_share:
        image = functional.rgb_to_grayscale(image, 3)
    if draws.random() < config.blur_share:
        blur = ImageFilter.GaussianBlur(draws.uniform(*config.blur_sigma))
        image = functional.pil_to_tensor(functional.to_pil_image(image).filter(blur))
    return functional.horizontal_flip(image) if draws.random() < config.flip_share else image


def _batched(images: Tensor) -> Tensor:
    """Change brightness, saturation, contrast and sharpness of each image by numbers of its own."""
    factor = torch.rand(len(images), 1, 1, 1)
    found = (images.float() * factor).clamp(0, 255)
    grey = (found * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    found = torch.lerp(grey, found, factor).clamp(0, 255)
    found = torch.lerp(grey.mean(dim=(2, 3), keepdim=True), found, factor).clamp(0, 255)
    kernel = torch.rand(3 * len(images), 1, 1, _TAPS)
    side = _TAPS // 2
    rows = torch.nn.functional.pad(found.flatten(0, 1)[None], (side,) * 4, mode="reflect")
    rows = torch.nn.functional.conv2d(rows, kernel, groups=len(kernel))
    rows = torch.nn.functional.conv2d(rows, kernel.transpose(2, 3), groups=len(kernel))
    return rows.to(torch.uint8)


def on_gpu() -> None:
    """Compare on the GPU."""
    print(torch.cuda.get_device_name())
    _tell("seconds, best", GPU_BATCH, GPU_UPDATES, _gpu_clock)


def _gpu_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _tell(what: str, batch: int, updates: int, clock: Callable[[], float]) -> None:
    print(f"ViT-B/32 at 224 px, 77 tokens, InfoNCE, batch {batch}: {what} of {updates} updates")
    times = dict.fromkeys(ARMS, float("inf"))
    for _ in range(updates):
        for arm, settings in ARMS.items():
            times[arm] = min(times[arm], _an_update(_config(batch, settings), clock))
    plain = _config(batch, {})
    for arm, seconds in times.items():
        floor = (
            forward_cost(_config(batch, ARMS[arm])).multiply_adds
            / forward_cost(plain).multiply_adds
        )
        print(
            f"  {arm:33} {seconds:.4g} s, {seconds / times['plain']:.2f} times plain; passes through the towers alone "
            f"{floor:.2f}"
        )


def _config(batch: int, settings: dict[str, Any]) -> TrainConfig:
    model = {"model": {"name": "ViT-B-32"}, "objective": {"name": "openclip"}}
    return TrainConfig.model_validate(
        {**model, "global_batch": batch, "streams": 1, "warmup_steps": 0, **settings}
    )


def _an_update(config: TrainConfig, clock: Callable[[], float]) -> float:
    job = TrainJob(
        config=config, seed=0, train_key="bench", index_uri="-", shard_uri="-", run_uri="-"
    )
    world = World.from_environment()
    trainer = make_trainer(job, world, Phase(0, config, 0, 1000, 0), num_samples=100_000)
    _fill_queues(trainer)
    batch = example_batch(config, trainer.towers, pairs=config.global_batch).to(world.device)
    trainer.update(batch)
    start = clock()
    trainer.update(batch)
    return clock() - start


def _fill_queues(trainer: Trainer) -> None:
    for term in trainer.terms.modules():
        if isinstance(term, Neighbours):
            rows = torch.nn.functional.normalize(torch.randn_like(term.queue.contrasts_SMD), dim=2)
            term.queue.add(rows, torch.zeros_like(term.queue.sample_ids_M))


if __name__ == "__main__":
    on_gpu() if sys.argv[1:] == ["gpu"] else main()
