"""What a run achieves and costs: samples per second, waiting for data, FLOP/s, memory, device hours."""

import os
import resource
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from neuclip.distributed.world import World
from neuclip.loading.batch import Inputs
from neuclip.training.telemetry_config import TelemetryConfig

PASSING = frozenset(
    (
        "samples_per_s",
        "data_wait",
        "flops_per_s",
        "mfu",
        "memory_gib",
        "device_hours",
        "cost",
    )
)
"""Numbers of a line of metrics that another run of the same recipe need not repeat."""
_BACKWARD_COST = 2  # a backward pass takes two products for each of the forward pass
_PEAK_TFLOPS = {
    # Dense bf16, from the makers' data sheets; a name that is not here gives no MFU.
    "B200": 2250,
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "RTX 4090": 165,
    "A10": 125,
    "L4": 121,
    "RTX 3090": 71,
}


class Meter:
    """Measures between two lines of metrics.

    Args:
        flops_per_sample: of a forward pass of both encoders.
        device_hours: what earlier processes of the same run have used.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        world: World,
        *,
        flops_per_sample: int,
        in_bf16: bool,
        device_hours: float,
    ) -> None:
        self._config, self._world = config, world
        self._flops = flops_per_sample * (1 + _BACKWARD_COST)
        self._peak = peak_flops(config, world.device, in_bf16=in_bf16)
        self._earlier_hours, self._begun = device_hours, time.perf_counter()
        self.open()

    def open(self) -> None:
        """Begin to measure."""
        self._start = self._last = time.perf_counter()
        self._samples, self._wait_s = 0, 0.0

    def batch_arrived(self) -> None:
        """Count the time since the last batch was done as waiting."""
        self._wait_s += time.perf_counter() - self._last

    def batch_done(self, samples: int) -> None:
        """Count a batch."""
        self._samples += samples
        self._last = time.perf_counter()

    @property
    def device_hours(self) -> float:
        """Hours of all devices so far, those of earlier processes of this run included."""
        return self._earlier_hours + self._world.size * (time.perf_counter() - self._begun) / 3600

    @property
    def is_over_budget(self) -> bool:
        """Tell whether the run has used up what it may cost."""
        budget, price = self._config.budget, self._config.price_per_hour
        return budget is not None and price is not None and self.device_hours * price >= budget

    def close(self) -> dict[str, float]:
        """Return the numbers since the last call, and begin anew."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        speed = self._samples / elapsed
        numbers = {
            "samples_per_s": speed,
            "data_wait": self._wait_s / elapsed,
            "flops_per_s": speed * self._flops,
            "memory_gib": memory_bytes(self._world.device) / 2**30,
            "device_hours": self.device_hours,
        }
        if self._peak is not None:
            numbers["mfu"] = speed * self._flops / (self._peak * self._world.size)
        if self._config.price_per_hour is not None:
            numbers["cost"] = self.device_hours * self._config.price_per_hour
        self.open()
        return numbers


def memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has held: of the GPU where it has one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free: of the GPU, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def forward_flops(encoders: nn.Module, inputs: Inputs) -> int:
    """Count the FLOPs of a forward pass over all views, a multiply-add as two, divided by the batch."""
    was_training = encoders.training
    encoders.eval()  # batch statistics stay as they are
    with FlopCounterMode(display=False) as counter:
        encoders(*inputs)
    encoders.train(was_training)
    images, _, _ = inputs
    return counter.get_total_flops() // len(next(iter(images.values())))


def peak_flops(config: TelemetryConfig, device: torch.device, *, in_bf16: bool) -> float | None:
    """Return what the device can do, FLOP/s, if the recipe or its name says it."""
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12
    if device.type != "cuda" or not in_bf16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for known, peak in _PEAK_TFLOPS.items() if known in name), None)
