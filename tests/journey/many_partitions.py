"""Every stage over many partitions: python -m tests.journey.many_partitions COUNT LIMIT FOLDER opens few files.

A row of the table is a partition; pictures are made, and every fifth pair has failed and was repaired once.
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np
from made.demo_web import DEMO_RECIPE
from made.fetched import commit_fetched, commit_retries
from made.ready import Sample, write_ready
from made.tables import uid, write_table

from neuclip.curate.semantic import image_cluster
from neuclip.foundation.progress import silent
from neuclip.journey import identify, run_stage
from neuclip.query.explain import explain
from neuclip.query.sql import run_query
from neuclip.recipe import load_recipe
from neuclip.stages.manifest import read_manifest
from neuclip.storage.arrays import MappedFiles
from neuclip.takedown.lists import Wanted
from neuclip.takedown.run import run_takedown

GONE = 3
WIDTH = 4


def go_through(count: int, folder: Path) -> dict:
    """Run every stage and command that reads many partitions; return what each counted."""
    table = write_table(
        folder / "urls.parquet",
        [
            {
                "uid": uid(n),
                "url": f"http://a.example.org/{n}",
                "caption": f"the pair {n}",
                "score": n,
            }
            for n in range(count)
        ],
    )
    fields = {
        "root": str(folder / "lake"),
        "acquire": {"table": table, "partition_rows": 1, "keep_columns": ["score"]},
        "evaluate.sets": [],
        "score": {"scores": [{"kind": "phash", "name": "ph"}]},
        "curate": {
            "rules": [
                {"kind": "caption_words", "min": 2},
                {"kind": "duplicate_images"},
                {"kind": "near_duplicate_images"},
                {"kind": "top_fraction", "column": "score", "fraction": 0.9},
            ],
            "decontaminate": None,
        },
        "shard": {"samples_per_shard": 1000, "selection_share": 0.1},
    }
    recipe = load_recipe(DEMO_RECIPE, fields)
    commit_fetched(
        recipe.acquire,
        recipe.root,
        failed_for=lambda name: "timeout" if int(name, 16) % 5 == 0 else None,
    )
    commit_retries(recipe.acquire, recipe.root)
    for stage in ("acquire", "score", "curate", "caption", "shard", "index"):
        run_stage(recipe, stage)
    uris = {stage: identity.uri for stage, identity in identify(recipe).items()}
    queried = run_query(recipe, "SELECT count(*), count(DISTINCT uid) FROM rows", limit=1)
    story = explain(recipe, uid(count - 1))
    report = run_takedown(recipe.root, Wanted([uid(GONE)], [], []), progress=silent)
    return {
        "acquire": read_manifest(uris["acquire"]).ledger.out,
        "caption": read_manifest(uris["caption"]).ledger.out,
        "curate": read_manifest(uris["curate"]).ledger.out,
        "shard": read_manifest(uris["shard"]).ledger.entered,
        "rows": queried.rows[0],
        "explained": story.stages["acquire"]["row"],
        "taken_down": report.images,
        "clustered": clustered(count, folder / "features"),
        "adopted": adopted(count, folder),
    }


def clustered(count: int, folder: Path) -> int:
    """Cluster features that lie in a file for each partition."""
    folder.mkdir()
    features = np.random.default_rng(0).standard_normal((count, 2, WIDTH)).astype(np.float16)
    paths = [folder / f"{number}.npy" for number in range(count)]
    for path, rows in zip(paths, features, strict=True):
        np.save(path, rows)
    return len(
        image_cluster(MappedFiles(paths), features[0].astype(np.float32), clusters=3, seed=0)
    )


def adopted(count: int, folder: Path) -> int:
    """Adopt as many shards, each of one picture."""
    for number in range(count):
        write_ready(folder / "ready", f"{number:05d}", [Sample(number)])
    fields = {
        "root": str(folder / "adopted"),
        "acquire": {"adopt": str(folder / "ready")},
        "evaluate.sets": [],
        "curate.decontaminate": None,
    }
    recipe = load_recipe(DEMO_RECIPE, fields)
    run_stage(recipe, "acquire")
    return read_manifest(identify(recipe)["acquire"].uri).ledger.out


if __name__ == "__main__":
    files = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    print(json.dumps(go_through(int(sys.argv[1]), Path(sys.argv[3]))))
