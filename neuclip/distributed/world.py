"""Who this process is among the processes of one run."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist

from neuclip.foundation.errors import ConfigError

_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class World:
    """The processes of one run, seen from one of them.

    Args:
        rank: this process, 0 .. size - 1.
        size: number of processes; at 1 every collective is the identity.
        device: where this process keeps its tensors.
        local_rank: this process among those of its machine.
    """

    rank: int
    size: int
    device: torch.device
    local_rank: int

    @classmethod
    def single(cls, device: str | torch.device = "cpu") -> Self:
        """Return the world of one process."""
        return cls(rank=0, size=1, device=torch.device(device), local_rank=0)

    @classmethod
    def from_environment(cls, *, timeout_s: float | None = None) -> Self:
        """Join the processes that torchrun started, or be alone if it started none.

        Tensors on CUDA travel by nccl, those in main memory by gloo, which waits for no device. Call `close` at
        the end.

        Args:
            timeout_s: longest wait for another process, after which the call that waits raises; None is torch's.

        Raises:
            ConfigError: if only some of torchrun's variables are set.
        """
        given = [name for name in _LAUNCHER_VARIABLES if name in os.environ]
        if given and len(given) < len(_LAUNCHER_VARIABLES):
            raise ConfigError(
                f"of {', '.join(_LAUNCHER_VARIABLES)} only {', '.join(given)} is set; "
                "start with torchrun, or unset all three to run one process"
            )
        rank, size, local_rank = (int(os.environ[name]) for name in given) if given else (0, 1, 0)
        if torch.cuda.is_available():
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        else:
            device = torch.device("cpu")
        if size > 1:
            on_cuda = device.type == "cuda"
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
                timeout=None if timeout_s is None else timedelta(seconds=timeout_s),
                device_id=device if on_cuda else None,
            )
        return cls(rank=rank, size=size, device=device, local_rank=local_rank)

    @property
    def is_main(self) -> bool:
        """Tell whether this is the one process that writes logs and manifests."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the other processes; nothing to do when alone."""
        if self.size > 1:
            dist.destroy_process_group()
