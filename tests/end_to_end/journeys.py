"""The command line as a user calls it, on the demo made small; and what it leaves."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO_RECIPE = str(REPOSITORY / "infra" / "recipes" / "demo.yaml")
DATA_STAGES = ("acquire", "curate", "caption", "shard", "index", "train")
_MOST_S = 900

SMALL = {
    "demo.pairs": 300,
    "demo.evaluation_scenes": 60,
    "acquire.partition_rows": 150,
    "acquire.processes": 1,
    "acquire.threads": 4,
    "shard.samples_per_shard": 100,
    "train.epochs": 1,
    "train.global_batch": 32,
    "train.warmup_steps": 2,
    "train.save_every_steps": 4,
    "train.probe": None,
    "train.objective.estimator.num_prototypes": 64,
    "train.objective.estimator.restart_every": 4,
    "train.loader.workers": 0,
}


@dataclass(frozen=True)
class Demo:
    """A small demo: where its web is and on which port it is served while acquire runs."""

    web: Path
    port: int

    def overrides(self, root: str | Path, **changes: Any) -> list[str]:
        """Return the arguments for a root; `train__lr` changes train.lr."""
        names = ("wds_scenes_shapes", "wds_scenes_retrieval")
        sets = [str(self.web / "evaluation" / name) for name in names]
        fields = {
            **SMALL,
            "root": str(root),
            "demo.folder": str(self.web),
            "demo.port": self.port,
            "acquire.table": str(self.web / "urls.parquet"),
            "curate.decontaminate.sets": sets,
            "evaluate.sets": sets,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
        return [part for n, v in fields.items() for part in ("--set", f"{n}={json.dumps(v)}")]


def neuclip(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("neuclip")), *arguments],
        capture_output=True,
        text=True,
        timeout=_MOST_S,
        cwd=REPOSITORY,
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
