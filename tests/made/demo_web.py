"""The demo's web made small, served by the process of the tests, and recipes that fetch from it."""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuclip.demo.server import serving
from neuclip.demo.settings import WebSettings
from neuclip.demo.web import prepare

DEMO_RECIPE = str(Path(__file__).resolve().parents[2] / "neuclip/demo/recipes/neuclip.yaml")
"""A whole recipe to change: it names a table and evaluation sets below the working folder."""

SMALL = {
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
"""Overrides of the demo's recipe for 300 pairs."""


@dataclass(frozen=True)
class DemoWeb:
    """A drawn web that is served."""

    folder: Path
    port: int

    @property
    def table(self) -> Path:
        return self.folder / "urls.parquet"

    @property
    def sets(self) -> list[str]:
        return [
            str(self.folder / "evaluation" / name)
            for name in ("wds_scenes_shapes", "wds_scenes_retrieval")
        ]

    @property
    def inputs(self) -> dict[str, Any]:
        """Overrides that name the table and the evaluation sets."""
        return {
            "acquire.table": str(self.table),
            "curate.decontaminate.sets": self.sets,
            "evaluate.sets": self.sets,
        }

    def overrides(self, root: str | Path, **changes: Any) -> list[str]:
        """Return the arguments of a small run at a root; `train__lr` changes train.lr."""
        fields = {
            **SMALL,
            "root": str(root),
            **self.inputs,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
        return as_options(fields)


def as_options(fields: dict[str, Any]) -> list[str]:
    """Return overrides as the command line takes them."""
    return [part for n, v in fields.items() for part in ("--set", f"{n}={json.dumps(v)}")]


@contextmanager
def demo_web(
    folder: Path,
    *,
    pairs: int = 300,
    evaluation_scenes: int = 60,
    on_request: Callable[[str], None] | None = None,
) -> Generator[DemoWeb]:
    """Draw a web and serve it on a free port while the block runs."""
    folder.mkdir(parents=True)
    with serving(folder, 0, on_request=on_request) as server:
        port = server.server_port
        prepare(
            WebSettings(folder=folder, pairs=pairs, evaluation_scenes=evaluation_scenes, port=port)
        )
        yield DemoWeb(folder, port)
