"""Programs on a machine whose /dev/shm is small."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest


def run_with_shared_memory(
    megabytes: int, words: Sequence[str], *, seconds: float = 100
) -> "subprocess.CompletedProcess[str]":
    """Run Python where /dev/shm is a real disk of this size that nobody else sees."""
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec "$0" "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "COLUMNS": "300",
        },
    )
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mounting needs root")
    return done
