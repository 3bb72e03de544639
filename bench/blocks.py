"""The losses over a whole batch in blocks against all logits kept: memory and time by batch size.

Each figure is of a process of its own: forward and backward of one batch of unit features, best of two; memory is the
peak above what the process held with the features and their gradients' place before. On the CPU it is resident memory,
one thread; `python -m bench.blocks gpu` tells a GPU's own count, at batches up to 131,072.
"""

import json
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
import torch
from torch.nn.functional import normalize

from neuclip.objectives import blocks
from neuclip.objectives.registry import build

WIDTH, SEED = 128, 0
SIZES = (1024, 2048, 4096, 8192, 16384, 32768)
MOST_PLAIN = 8192
GPU_SIZES = (4096, 16384, 65536, 131072)
GPU_MOST_PLAIN, GPU_WIDTH = 16384, 512
OBJECTIVES: dict[str, dict[str, Any]] = {
    "openclip": {"name": "openclip"},
    "siglip": {"name": "siglip"},
    "fastclip v3": {"name": "fastclip"},
    "isogclr": {"name": "isogclr", "temperature_init": 0.07},
    "amorlip": {"name": "amorlip"},
    "neuclip, network": {"name": "neuclip"},
    "neuclip, aged queue": {"name": "neuclip", "estimator": {"name": "aged_queue"}},
}
KEEP_ALL, ALWAYS_BLOCKS = 1 << 62, 1


def main() -> None:
    if len(sys.argv) > 2:
        print(json.dumps(_measure(*sys.argv[1:])))
        return
    is_gpu = sys.argv[1:] == ["gpu"]
    if is_gpu and not torch.cuda.is_available():
        print("losses in blocks on a GPU: there is none here")
        return
    device = "cuda" if is_gpu else "cpu"
    sizes, most_plain = (GPU_SIZES, GPU_MOST_PLAIN) if is_gpu else (SIZES, MOST_PLAIN)
    print(
        f"loss and gradient in blocks on {device}: MB above the features, seconds; plain where it was run"
    )
    for size in sizes:
        _tell("openclip", size, device, with_plain=size <= most_plain)
    for name in OBJECTIVES:
        if name != "openclip":
            _tell(name, 131072 if is_gpu else MOST_PLAIN // 2, device, with_plain=not is_gpu)


def _tell(name: str, size: int, device: str, *, with_plain: bool) -> None:
    found = _in_a_process("blocks", name, size, device)
    line = f"{name:20} batch {size:7}: blocks {found['mb']:8.0f} MB {found['seconds']:8.3f} s"
    if with_plain:
        plain = _in_a_process("plain", name, size, device)
        error = abs(found["gradient"] / plain["gradient"] - 1)
        line += (
            f", plain {plain['mb']:8.0f} MB {plain['seconds']:8.3f} s: time {found['seconds'] / plain['seconds']:.2f}, "
            f"norm of the gradient within {error:.0e}"
        )
    print(line, flush=True)


def _in_a_process(form: str, name: str, size: int, device: str) -> dict[str, float]:
    words = [sys.executable, "-m", "bench.blocks", form, name, str(size), device]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def _measure(form: str, name: str, size: str, device: str) -> dict[str, float]:
    torch.set_num_threads(1)
    blocks.MOST_AT_ONCE = KEEP_ALL if form == "plain" else ALWAYS_BLOCKS
    count, width = int(size), GPU_WIDTH if device == "cuda" else WIDTH
    draw = torch.Generator().manual_seed(SEED)
    sides = [normalize(torch.randn(count, width, generator=draw), dim=1) for _ in range(2)]
    leaves = [side.to(device).requires_grad_() for side in sides]
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    objective = build(OBJECTIVES[name], feature_dim=width, num_samples=2 * count).to(device)
    times: list[float] = []
    with _Peak(device) as peak:
        for step in range(2):
            ids = torch.arange(count, device=device) + step * count
            began = _now(device)
            objective(*leaves, ids).loss.backward()
            times.append(_now(device) - began)
            objective.advance(step + 1)
    norm = torch.stack([leaf.grad.norm() for leaf in leaves if leaf.grad is not None]).norm()
    return {"seconds": min(times), "mb": peak.megabytes, "gradient": norm.item()}


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class _Peak:
    """The most memory that the process holds while it is open, above what it holds when it is opened."""

    def __init__(self, device: str) -> None:
        self._is_gpu, self.megabytes = device == "cuda", 0.0
        self._process, self._is_over = psutil.Process(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Peak":
        if self._is_gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._before = self._most = self._process.memory_info().rss
            self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._is_over.wait(0.002):
            self._most = max(self._most, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        most = torch.cuda.max_memory_allocated() if self._is_gpu else self._most
        self.megabytes = (most - self._before) / 1e6


if __name__ == "__main__":
    main()
