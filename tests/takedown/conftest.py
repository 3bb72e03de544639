"""A journey up to the index over made pictures, for every test its own copy."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from made.demo_web import DEMO_RECIPE
from made.fetched import commit_fetched
from servers.s3 import s3_bucket, s3_environment, s3_url

from neuclip.journey import identify, run_stage
from neuclip.recipe import Recipe, load_recipe
from tests.acquire.tables import uid, write_table

__all__ = ["s3_bucket", "s3_environment", "s3_url"]

STAGES = ("acquire", "curate", "caption", "shard", "index")
FAILED = {3: "timeout", 4: "http_404", 15: "timeout"}
PAIRS = 60
BAD_HOST = "bad.example.org"


@dataclass
class Lake:
    """A recipe whose stages were done, and where its root is."""

    recipe: Recipe
    root: Path
    table: str

    def uri(self, stage: str) -> Path:
        return Path(identify(self.recipe)[stage].uri)

    def run(self) -> None:
        for stage in STAGES:
            run_stage(self.recipe, stage)


def host_of(number: int) -> str:
    return f"img{number}.{BAD_HOST}" if number % 20 == 7 else "good.example.org"


def url_of(number: int) -> str:
    return f"https://{host_of(number)}/{number}.png"


def caption_of(number: int) -> str:
    return f"secret words of pair {number}"


def table_rows(count: int) -> list[dict]:
    return [
        {"uid": uid(n), "url": url_of(n), "caption": caption_of(n), "tag": f"tag {n}"}
        for n in range(count)
    ]


def make_lake(base: Path, root: str | None = None, failed: dict[int, str] = FAILED) -> Lake:
    table = write_table(base / "urls.parquet", table_rows(PAIRS))
    fields = {
        "root": root or str(base / "lake"),
        "acquire": {
            "table": table,
            "partition_rows": 10,
            "keep_columns": ["tag"],
        },
        "evaluate.sets": [],
        "curate": {
            "rules": [{"kind": "caption_words", "min": 2}],
            "scores": [{"kind": "phash", "name": "ph"}],
            "decontaminate": None,
        },
        "shard": {"samples_per_shard": 20, "selection_share": 0.2},
    }
    recipe = load_recipe(DEMO_RECIPE, fields)
    reasons = {uid(number): reason for number, reason in failed.items()}
    commit_fetched(recipe.acquire, recipe.root, failed_for=reasons.get)
    return Lake(recipe, base / "lake", table)


@pytest.fixture(scope="session")
def finished_lake(tmp_path_factory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("lake"))
    lake.run()
    return lake


@pytest.fixture
def lake(finished_lake, tmp_path) -> Lake:
    """A copy of the lake; keys do not tell where it lies."""
    shutil.copytree(finished_lake.root.parent, tmp_path, dirs_exist_ok=True)
    acquire = finished_lake.recipe.acquire.model_copy(
        update={"table": str(tmp_path / "urls.parquet")}
    )
    recipe = finished_lake.recipe.model_copy(
        update={"root": str(tmp_path / "lake"), "acquire": acquire}
    )
    return Lake(recipe, tmp_path / "lake", str(tmp_path / "urls.parquet"))
