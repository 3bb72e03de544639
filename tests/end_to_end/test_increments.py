"""Nights of one recipe at one root: each trains on from the model that was published last.

Oracles: the temperature and the loss of the first update, which are those of the model before; keys by hand.
"""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.demo_web import DEMO_RECIPE, SMALL
from safetensors.torch import load_file

from neuclip.journey import identify, run_journey
from neuclip.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_ROWS = 150
"""Of the table's first file, which is one partition."""


class Nights:
    """A root whose table grows."""

    def __init__(self, base: Path, web) -> None:
        self.base, self.web, self.table = base, web, base / "table"
        self.table.mkdir()

    def grow(self, name: str, first: int, number: int) -> None:
        rows = pq.read_table(self.web.table).slice(first, number)
        pq.write_table(rows, self.table / f"{name}.parquet")

    def recipe(self, **changes):
        fields = {
            **SMALL,
            "root": str(self.base / "lake"),
            "acquire.table": str(self.table),
            "evaluate.sets": [],
            "curate.decontaminate": None,
            "train.objective": {"name": "openclip"},
            "train.epochs": 12,
            "train.lr": 3e-3,
            "train.log_every_steps": 1,
            "train.keep_best": 0,
            "train.keep_checkpoints": 1,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
        return load_recipe(DEMO_RECIPE, fields)


def published(recipe) -> dict:
    return load_file(f"{identify(recipe)['publish'].uri}/model/open_clip_model.safetensors")


def metrics(recipe) -> list[dict]:
    lines = Path(identify(recipe)["train"].uri, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_each_night_trains_on_from_the_night_before(small_web, tmp_path):
    """Issue 15, must show 2; and a rerun of the same night does nothing."""
    nights = Nights(tmp_path, small_web)
    nights.grow("a", 0, _ROWS)
    first = nights.recipe()
    run_journey(first)
    temperature = 1 / math.exp(published(first)["logit_scale"].item())
    losses = [line["loss"] for line in metrics(first)]

    nights.grow("b", _ROWS, 80)
    second = nights.recipe(train__initial={"model": "latest"}, train__epochs=2)
    (before,) = _published_keys(tmp_path)
    reports = {report.stage: report for report in run_journey(second)}
    assert {report.state for report in reports.values()} == {"ran"}
    manifest = reports["train"].manifest
    assert manifest.summary["initial"]["key"] == before
    assert manifest.summary["initial"]["content"] == manifest.inputs["initial"]
    begin = metrics(second)[0]
    assert begin["step"] == 1
    assert begin["temperature"] == pytest.approx(temperature, rel=1e-6)
    assert begin["loss"] < (losses[0] + min(losses)) / 2
    weights = published(second)

    again = run_journey(second)
    assert {report.state for report in again} == {"cached"}
    assert len(_published_keys(tmp_path)) == 2

    nights.grow("c", _ROWS + 80, 70)
    third = nights.recipe(train__initial={"model": "latest"}, train__epochs=0)
    reports = {report.stage: report for report in run_journey(third)}
    assert reports["train"].manifest.summary["initial"]["key"] != before
    found = published(third)
    assert found.keys() == weights.keys()
    assert all(found[name].equal(tensor) for name, tensor in weights.items())


def _published_keys(base: Path) -> list[str]:
    return sorted(path.name for path in (base / "lake" / "publish").iterdir())
