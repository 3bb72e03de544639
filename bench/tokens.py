"""What fewer tokens save: an update of the product's trainer, and its loader, at all tokens and at few.

`python -m bench.tokens` on this machine's CPU, `python -m bench.tokens gpu` on its GPU, for ViT-B/16 and L/14 with MFU.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.loading import pipelines
from bench.loading.data import SAMPLES, Data, commit_shards, photographs
from neuclip.distributed.world import World
from neuclip.loading.captions import Captions
from neuclip.loading.policies import PerSource
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.views import ImageView, TextView
from neuclip.tokens.texts.policy import build_text_tokens
from neuclip.towers.model import create_towers
from neuclip.towers.transforms import training_pixels
from neuclip.training.config import TrainConfig
from neuclip.training.costs import forward_cost
from neuclip.training.example_batch import example_batch
from neuclip.training.job import TrainJob
from neuclip.training.meter import peak_flops
from neuclip.training.parts import make_trainer
from neuclip.training.phases import Phase
from neuclip.training.tokens import patch_policy, sized

TOKENS: dict[str, dict[str, Any]] = {
    "all": {},
    "a quarter of the patches": {"image_tokens": {"name": "random", "keep": "1/4"}},
    "CLIPA's": {"image_px": 96, "context_length": 8, "text_tokens": {"name": "syntax"}},
}
CPU_BATCH, CPU_UPDATES = 32, 2
GPU_UPDATES = 20
GPU_BATCHES = {"ViT-B-16": 512, "ViT-L-14": 256}
_SIDE_OF_L14 = 84
_LOADED = 768


def main() -> None:
    """Compare on the CPU."""
    torch.set_num_threads(1)
    print(
        f"ViT-B/16, batch {CPU_BATCH}, one thread, processor seconds of an update, best of {CPU_UPDATES}"
    )
    tell_updates("ViT-B-16", CPU_BATCH, CPU_UPDATES, time.process_time)
    for side_px in (256, 512):
        with tempfile.TemporaryDirectory() as folder:
            tell_loading(commit_shards(folder, photographs(side_px)), side_px)


def on_gpu() -> None:
    """Compare on the GPU."""
    print(torch.cuda.get_device_name())
    for name, batch in GPU_BATCHES.items():
        print(f"{name}, batch {batch}, seconds of an update, mean of {GPU_UPDATES}")
        tell_updates(name, batch, GPU_UPDATES, time.perf_counter)


def tell_updates(name: str, batch: int, updates: int, clock: Callable[[], float]) -> None:
    """Print the time of an update at each number of tokens, and its multiply-adds against those of all."""
    all_s = all_products = 0.0
    for tokens, settings in TOKENS.items():
        config = _config(name, batch, settings)
        cost = forward_cost(config)
        seconds, in_bf16 = _an_update(config, updates, clock)
        all_s, all_products = all_s or seconds, all_products or cost.multiply_adds
        flops = 6 * cost.multiply_adds * batch / seconds
        peak = peak_flops(config.telemetry, World.single().device, in_bf16=in_bf16)
        print(
            f"  {tokens:25} {cost.image_tokens} + {cost.text_tokens} tokens, {seconds:.4g} s, "
            f"{batch / seconds:.4g} samples/s, {all_s / seconds:.2f} times less than all; floor "
            f"{all_products / cost.multiply_adds:.2f} by {cost.multiply_adds / 1e9:.3g} GMAC a pair"
            + (f"; MFU {flops / peak:.0%}" if peak else "")
        )


def tell_loading(data: Data, side_px: int) -> None:
    """Print what a core loads a second at each number of tokens, with decode at full and at a smaller scale."""
    print(f"loading, photographs of {side_px} px, samples/s a core, best of 3")
    all_rate = 0.0
    for tokens, settings in TOKENS.items():
        for is_scaled in (False, True):
            samples = _samples(data, _config("ViT-B-16", 64, settings), is_scaled=is_scaled)
            rate = _LOADED / min(_loading_s(samples) for _ in range(3))
            all_rate = all_rate or rate
            print(
                f"  {tokens:25} {'scaled' if is_scaled else 'full'} decode {rate:.4g}, ratio {rate / all_rate:.2f}"
            )


def _config(name: str, batch: int, settings: dict[str, Any]) -> TrainConfig:
    model = {"model": {"name": name}, "objective": {"name": "openclip"}}
    if name.endswith("-14") and "image_px" in settings:
        settings = {**settings, "image_px": _SIDE_OF_L14}
    return TrainConfig.model_validate(
        {**model, "global_batch": batch, "streams": 1, "warmup_steps": 0, **settings}
    )


def _an_update(config: TrainConfig, updates: int, clock: Callable[[], float]) -> tuple[float, bool]:
    job = TrainJob(
        config=config, seed=0, train_key="bench", index_uri="-", shard_uri="-", run_uri="-"
    )
    world = World.from_environment()
    trainer = make_trainer(job, world, Phase(0, config, 0, 1000, 0), num_samples=100_000)
    batch = example_batch(config, trainer.towers, pairs=config.global_batch).to(world.device)
    trainer.update(batch)
    if world.device.type == "cuda":
        for _ in range(3):
            trainer.update(batch)
        torch.cuda.synchronize()
        start = clock()
        for _ in range(updates):
            trainer.update(batch)
        torch.cuda.synchronize()
        return (clock() - start) / updates, trainer.in_bf16
    times: list[float] = []
    for _ in range(updates):
        start = clock()
        trainer.update(batch)
        times.append(clock() - start)
    return min(times), trainer.in_bf16


def _samples(data: Data, config: TrainConfig, *, is_scaled: bool) -> ShardSamples:
    towers = create_towers(config.model, seed=0, change=partial(sized, config=config))
    tokens = build_text_tokens(config.text_tokens, towers.tokenize)
    to_pixels = partial(training_pixels, image_px=towers.image_px, scaled_decode=is_scaled)
    return ShardSamples(
        ShardFiles(data.shard_uri, cache_gb=1),
        data.table,
        images=[ImageView(to_pixels, "main", patch_policy(towers.architecture, config))],
        texts=[TextView(PerSource(), tokens)],
        captions=Captions(data.index_uri, cache_gb=1),
        seed=0,
    )


def _loading_s(samples: ShardSamples) -> float:
    start = time.process_time()
    for first in range(0, min(_LOADED, SAMPLES), pipelines.BATCH):
        samples.__getitems__([(0, first + place) for place in range(pipelines.BATCH)])
    return time.process_time() - start


if __name__ == "__main__":
    on_gpu() if sys.argv[1:] == ["gpu"] else main()
