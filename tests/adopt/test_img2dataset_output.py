"""Oracle: what img2dataset itself writes, byte for byte, and the training shards that adopted images end in."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.demo_web import DEMO_RECIPE, demo_web
from made.tables import committed_rows

from neuclip.acquired.partitions import partition_folders, rows_paths
from neuclip.acquired.raw_images import RawImages
from neuclip.foundation.children import run_child
from neuclip.foundation.ids import uid_of
from neuclip.journey import identify, run_stage
from neuclip.loading.tar_samples import read_samples
from neuclip.recipe import load_recipe
from neuclip.shards.members import shard_records
from neuclip.storage.files import list_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAIRS = 150
SHARD_ROWS = 60
OPTIONS = {
    "input_format": "parquet",
    "url_col": "url",
    "caption_col": "caption",
    "save_additional_columns": ["uid", "rewrite"],
    "output_format": "webdataset",
    "number_sample_per_shard": SHARD_ROWS,
    "image_size": 48,
    "resize_mode": "no",
    "compute_hash": "sha256",
    "processes_count": 1,
    "thread_count": 8,
    "timeout": 10,
}
QUIET = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Downloaded:
    """A web, and what img2dataset brought home from it."""

    table: Path
    shards: Path


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory) -> Downloaded:
    """150 pairs of the demo's web, broken links among them, in shards of 60 rows."""
    folder = tmp_path_factory.mktemp("downloaded")
    job = folder / "job.json"
    with demo_web(folder / "web", pairs=PAIRS, evaluation_scenes=50) as web:
        arguments = {"url_list": str(web.table), "output_folder": str(folder / "out"), **OPTIONS}
        job.write_text(json.dumps(arguments))
        run_child(
            [sys.executable, "-m", "neuclip.acquire.img2dataset_child", str(job)],
            name="img2dataset",
            log_path=folder / "log",
            environment=QUIET,
        )
    return Downloaded(web.table, folder / "out")


@pytest.fixture
def recipe(downloaded, tmp_path):
    return load_recipe(
        DEMO_RECIPE,
        {
            "root": str(tmp_path / "lake"),
            "acquire": {"adopt": str(downloaded.shards), "caption_columns": {"rewrite": "rewrite"}},
            "curate.rules": [],
            "shard.samples_per_shard": 50,
            "evaluate.sets": [],
            "curate.decontaminate": None,
        },
    )


def test_every_row_of_the_table_has_one_outcome_and_successes_end_in_training_shards(
    downloaded, recipe
):
    reports = {
        stage: run_stage(recipe, stage)
        for stage in ("acquire", "score", "curate", "caption", "shard")
    }
    identities = identify(recipe)
    table = {row["uid"]: row for row in pq.read_table(downloaded.table).to_pylist()}
    acquired = identities["acquire"].uri
    rows = committed_rows(acquired)
    assert sorted(row["uid"] for row in rows) == sorted(table)
    assert len(reports["acquire"].manifest.parts) == 3
    for row in rows:
        pair = table[row["uid"]]
        assert row["url"] == pair["url"]
        assert row["captions"] == {"alt": [pair["caption"]], "rewrite": [pair["rewrite"]]}
        assert row["unusable"] == {}
        expected = {"/missing/": "http_404", "/-/status/500": "http_5xx"}
        for part, reason in expected.items():
            assert part not in row["url"] or row["reason"] == reason
    told = [json.loads(path.read_text()) for path in downloaded.shards.glob("*_stats.json")]
    ledger = reports["acquire"].manifest.ledger
    assert ledger.out == sum(counts["successes"] for counts in told) > 100
    assert ledger.dropped["http_404"] > 0
    assert reports["acquire"].manifest.summary["shards_with_problems"] == 0
    assert not [name for name in list_files(f"{recipe.root}/acquire") if name.endswith(".tar")]

    stored = {}
    for path in downloaded.shards.glob("*.tar"):
        for sample in read_samples(path):
            stored[json.loads(sample.parts["json"])["uid"]] = sample.image()
    images = RawImages(partition_folders(acquired))
    for number, path in enumerate(rows_paths(acquired)):
        for row in pq.read_table(path).to_pylist():
            if row["status"] == "success":
                assert images.read({**row, "partition": number}) == stored[row["uid"]]

    packed = {}
    for name in shard_records(identities["shard"].uri):
        for sample in read_samples(Path(recipe.root, "shard", name)):
            packed[sample.key] = sample.image()
    assert packed == stored


def test_a_table_without_uids_gives_the_uids_of_the_url_table(downloaded, recipe, tmp_path):
    """img2dataset keeps no uid unless told; the hash of URL and caption is the same as from the table."""
    folder = tmp_path / "without"
    folder.mkdir()
    for path in downloaded.shards.glob("0000*"):
        (folder / path.name).symlink_to(path)
    for path in folder.glob("*.parquet"):
        table: pa.Table = pq.read_table(path).drop_columns(["uid"])
        path.unlink()
        pq.write_table(table, path)
    other = recipe.model_copy(
        update={"acquire": recipe.acquire.model_copy(update={"adopt": str(folder)})}
    )
    run_stage(other, "acquire")
    uri = identify(other)["acquire"].uri
    rows = [row for path in rows_paths(uri) for row in pq.read_table(path).to_pylist()]
    expected = {uid_of(r["url"], r["caption"]) for r in pq.read_table(downloaded.table).to_pylist()}
    assert {row["uid"] for row in rows} == expected
