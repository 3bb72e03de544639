"""How much shared memory loading processes need, and whether it is there."""

import os
from pathlib import Path

from neuclip.foundation.errors import ConfigError

_FOLDER = Path("/dev/shm")  # noqa: S108  # where the kernel keeps it
_MB = 1e6


def require_shared_memory(batch_bytes: int, *, batches: int) -> str:
    """Refuse a machine whose free shared memory does not hold the batches that are loaded ahead; say what was found.

    Args:
        batch_bytes: of one rank's batch.
        batches: how many the ranks of this machine hold at once.
    Raises: ConfigError: saying what is needed, what there is, and what to change.
    """
    needed = batch_bytes * batches
    try:
        found = os.statvfs(_FOLDER)
    except OSError:
        return f"{needed / _MB:.3g} MB of shared memory are needed; this system does not say how much there is"
    free = found.f_bavail * found.f_frsize
    if needed > free:
        raise ConfigError(
            f"loading needs {needed / _MB:.4g} MB of shared memory ({batches} batches of {batch_bytes / _MB:.4g} MB), "
            f"but {_FOLDER} has {free / _MB:.4g} MB free; {_WAYS_OUT}"
        )
    return f"{needed / _MB:.3g} MB of {free / _MB:.3g} MB shared memory"


def no_room(batch_bytes: int, error: BaseException) -> ConfigError:
    """Return the error for a batch that found no room there."""
    found = os.statvfs(_FOLDER)
    free, size = (n * found.f_frsize for n in (found.f_bavail, found.f_blocks))
    return ConfigError(
        f"a batch of {batch_bytes / _MB:.4g} MB does not fit into shared memory: {_FOLDER} has {free / _MB:.4g} MB of "
        f"{size / _MB:.4g} MB free ({error}); {_WAYS_OUT}"
    )


_WAYS_OUT = (
    "give more (docker run --shm-size=8g; for Kubernetes a memory volume at /dev/shm), or set train.loader.workers "
    "lower, to 0 for none, or lower train.global_batch"
)
