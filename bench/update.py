"""An update of the product's trainer on a GPU, its batch lying there: speed, MFU, busy share, its longest kernels.

`python -m bench.update [MODEL ...]`. Each case is a trainer of its own: a few updates to warm up, some timed, some
under torch's profiler. Busy is the time in which a kernel runs or memory is copied, over all time from the first to
the last of them. What an objective adds is the difference of two cases.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from neuclip.distributed.world import World
from neuclip.training.config import TrainConfig
from neuclip.training.costs import forward_cost
from neuclip.training.example_batch import example_batch
from neuclip.training.job import TrainJob
from neuclip.training.meter import peak_flops
from neuclip.training.parts import make_trainer
from neuclip.training.phases import Phase
from neuclip.training.trainer import Trainer

BATCHES = {"ViT-B-32": 1024, "ViT-B-16": 512}
WARM, TIMED, PROFILED, MOST_KERNELS = 6, 12, 3, 14
NETWORK = {"name": "neuclip"}
CASES: dict[str, dict[str, Any]] = {
    "openclip": {"objective": {"name": "openclip"}},
    "openclip, compiled": {"objective": {"name": "openclip"}, "compile": True},
    "neuclip, compiled": {"objective": NETWORK, "compile": True},
}


class Busy(NamedTuple):
    """What a profile of some updates shows, of one update each."""

    share: float
    kernels: int
    waits: int
    most: list[tuple[str, float]]
    """The kernels that take the most time, with their ms."""


def main() -> None:
    if not torch.cuda.is_available():
        print("an update on a GPU: there is none here")
        return
    print(torch.cuda.get_device_name(), torch.__version__)
    for name in sys.argv[1:] or BATCHES:
        for case, settings in CASES.items():
            tell(f"{name}, {case}", name, BATCHES[name], settings)


def tell(title: str, name: str, batch: int, settings: dict[str, Any]) -> None:
    """Print the figures of one case."""
    config = TrainConfig.model_validate(
        {
            "model": {"name": name},
            "objective": {"name": "openclip"},
            "global_batch": batch,
            "streams": 1,
            "warmup_steps": 0,
            "lr": 1e-5,
            **settings,
        }
    )
    job = TrainJob(
        config=config, seed=0, train_key="bench", index_uri="-", shard_uri="-", run_uri="-"
    )
    world = World.from_environment()
    began = time.perf_counter()
    trainer = make_trainer(job, world, Phase(0, config, 0, 1000, 0), num_samples=100_000)
    batch_here = example_batch(config, trainer.towers, pairs=batch).to(world.device)
    trainer.update(batch_here)
    torch.cuda.synchronize()
    first_s = time.perf_counter() - began
    for _ in range(WARM):
        trainer.update(batch_here)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(TIMED):
        trainer.update(batch_here)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / TIMED
    flops = 6 * forward_cost(config).multiply_adds * batch / seconds
    peak = peak_flops(config.telemetry, world.device, in_bf16=trainer.in_bf16) or float("nan")
    found = busy(trainer, batch_here)
    gib = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{title}, batch {batch}: {1e3 * seconds:.1f} ms, {batch / seconds:.0f} samples/s, MFU {flops / peak:.1%}, "
        f"busy {found.share:.0%}, {found.kernels} kernels, {found.waits} waits, {gib:.1f} GiB, "
        f"first update after {first_s:.0f} s",
        flush=True,
    )
    for kernel, milliseconds in found.most:
        print(f"    {milliseconds:7.2f} ms  {kernel[:110]}")
    torch.cuda.reset_peak_memory_stats()
    torch.compiler.reset()


def busy(trainer: Trainer, batch: Any) -> Busy:
    """Profile some updates."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(PROFILED):
            trainer.update(batch)
        torch.cuda.synchronize()
    events = list(seen.events() or [])
    device = [
        one for one in events if one.device_type == DeviceType.CUDA and not one.is_user_annotation
    ]
    waits = sum(
        one.name in ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
        for one in events
    )
    spent: Counter[str] = Counter()
    for one in device:
        spent[one.name] += one.time_range.elapsed_us()
    most = [(name, us / 1e3 / PROFILED) for name, us in spent.most_common(MOST_KERNELS)]
    spans = [(one.time_range.start, one.time_range.end) for one in device]
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    return Busy(covered(spans) / whole, len(device) // PROFILED, waits // PROFILED, most)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    main()
