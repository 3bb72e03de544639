"""A journey up to the index over made pictures, for every test its own copy."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from made.demo_web import DEMO_RECIPE
from made.fetched import commit_fetched
from made.tables import uid, write_table
from servers.s3 import s3_bucket, s3_environment, s3_url

from neuclip.journey import identify, run_stage
from neuclip.recipe import Recipe, load_recipe

__all__ = ["s3_bucket", "s3_environment", "s3_url"]

STAGES = ("acquire", "score", "curate", "caption", "shard", "index")
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
    return f"secret words of pair {number:03d}"


def texts_of(number: int) -> dict[str, list[str]]:
    """Return the texts that the table gives a pair, by source: not every pair has a title."""
    texts = {
        "alt": [caption_of(number)],
        "rewrite": [
            f"a first secret rewrite {number:03d}. It has a second sentence {number:03d}.",
            f"another secret rewrite {number:03d}",
        ],
    }
    return texts | ({"title": [f"secret title {number:03d}"]} if number % 2 else {})


def derived_of(number: int) -> dict[str, list[str]]:
    """Return the texts that the caption stage makes of them."""
    texts = texts_of(number)
    long, brief = texts["rewrite"]
    first, second = long.split(". ")
    made = {"sentences": [f"{first}.", second, brief]}
    if "title" in texts:
        made["both"] = [f"{texts['title'][0]}: {texts['alt'][0]}"]
    return made


def unusable_of(number: int) -> dict[str, int]:
    """Return the endless titles of a pair."""
    return {"title": 1} if number % 20 == 2 else {}


def table_rows(count: int) -> list[dict]:
    endless = "secret" * 20_000
    return [
        {
            "uid": uid(n),
            "url": url_of(n),
            "caption": caption_of(n),
            "rewrites": texts_of(n)["rewrite"],
            "title": endless if unusable_of(n) else texts_of(n).get("title", [None])[0],
            "tag": f"tag {n}",
        }
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
            "caption_columns": {"rewrite": "rewrites", "title": "title"},
        },
        "evaluate.sets": [],
        "score": {"scores": [{"kind": "phash", "name": "ph"}]},
        "curate": {
            "rules": [{"kind": "caption_words", "min": 2}],
            "decontaminate": None,
        },
        "caption": {
            "derive": [
                {"kind": "sentences", "source": "sentences", "of": "rewrite"},
                {"kind": "template", "source": "both", "text": "{title}: {alt}"},
            ]
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
