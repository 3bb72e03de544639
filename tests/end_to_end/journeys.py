"""The command line as a user calls it, and what it leaves."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DATA_STAGES = ("acquire", "curate", "caption", "shard", "index", "train")
_MOST_S = 900


def neuclip(
    *arguments: str, environment: dict[str, str] | None = None, folder: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("neuclip")), *arguments],
        capture_output=True,
        text=True,
        timeout=_MOST_S,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        check=False,
    )


def only_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the one JSON object on stdout; anything else there is an error."""
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def files_below(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def check_ledgers(ledgers: dict[str, dict[str, Any]]) -> None:
    """Hold each stage's ledger to its own sum and to the stage above it."""
    for stage, ledger in ledgers.items():
        lost = ledger["in"] - ledger["out"] - sum(ledger["dropped"].values())
        assert lost == 0, f"{stage}: {ledger}"
    for above, below in pairwise(DATA_STAGES):
        assert ledgers[below]["in"] == ledgers[above]["out"], f"{above} -> {below}"
