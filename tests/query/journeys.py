"""A recipe whose data stages were done on pairs made by hand."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from made.acquired import Pair, commit_acquired, some_pairs
from made.demo_web import DEMO_RECIPE

from neuclip.journey import identify, run_stage
from neuclip.recipe import load_recipe

STAGES = ("score", "curate", "caption", "shard", "index")
STEERING = "a caption \x1b[31mthat would\x07 colour\nthe terminal \u202e"


def make_recipe(base: Path, **changes):
    """Return a recipe and its overrides as the command line takes them."""
    table = base / "table.parquet"
    pq.write_table(pa.table({"url": ["never read"], "caption": ["here"]}), table)
    fields = {
        "root": str(base / "lake"),
        "acquire.table": str(table),
        "evaluate.sets": [],
        "score": {"scores": [{"kind": "language"}]},
        "curate": {
            "rules": [
                {"kind": "caption_words", "min": 2},
                {"kind": "caption_characters", "min": 5},
                {"kind": "duplicate_images"},
            ],
            "decontaminate": None,
        },
        "shard": {"samples_per_shard": 20, "selection_share": 0.2, "max_undecodable_share": 0.5},
        **changes,
    }
    return load_recipe(DEMO_RECIPE, fields), fields


def make_pairs() -> dict[str, list[Pair]]:
    """Return what became of pairs -> those pairs."""
    return {
        "kept": some_pairs(50),
        "failed": [Pair(100, {"alt": ["never arrived"]}, failed="http_404")],
        "brief": [Pair(101, {"alt": ["x"]})],
        "copies": [Pair(102, {"alt": ["a copy"]}, picture=0)],
        "undecodable": [Pair(103, {"alt": ["not a picture"]}, content=b"GIF89a")],
        "steering": [Pair(104, {"alt": [STEERING]})],
    }


def do_stages(recipe, pairs, stages=STAGES):
    flat = [pair for group in pairs.values() for pair in group]
    commit_acquired(Path(recipe.root), [flat[:30], flat[30:]], identify(recipe)["acquire"].key)
    for stage in stages:
        run_stage(recipe, stage)
