"""Oracle: the objects of a bucket, fetched whole and searched."""

import pyarrow.parquet as pq
import pytest
from made.fetched import commit_fetched, commit_retries, picture_of
from made.tables import uid, write_table
from takedown.conftest import FAILED, PAIRS, make_lake, table_rows

from neuclip.foundation.progress import silent
from neuclip.journey import identify, run_stage
from neuclip.stages.manifest import is_committed, read_manifest, verify_sizes
from neuclip.stages.revisions import revise
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_files, list_folders, read_bytes, sha256_of
from neuclip.storage.uris import join
from neuclip.takedown.lists import Wanted
from neuclip.takedown.run import run_takedown

GONE = [1, 22, 7, 27, 47]

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(600)]


def test_append_repair_and_takedown_in_a_bucket(s3_bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))
    lake = make_lake(tmp_path, root=f"{s3_bucket}/some/lake")
    recipe, root = lake.recipe, lake.recipe.root
    lake.run()
    first = identify(recipe)["acquire"]

    commit_retries(recipe.acquire, root)
    revise(join(root, "acquire"), first.key, "repair", {"retries": ["made"]})
    repaired = run_stage(recipe, "acquire").manifest
    assert repaired.parts[:6] == read_manifest(first.uri).parts
    assert repaired.ledger.dropped == {"http_404": 1}

    write_table(tmp_path / "urls.parquet", table_rows(PAIRS + 5))
    commit_fetched(recipe.acquire, root)
    (new,) = set(list_folders(join(root, "acquire", "parts"))) - set(repaired.parts)
    grown = run_stage(recipe, "acquire").manifest
    assert grown.parts == [*repaired.parts[:6], new, *repaired.parts[6:]]
    assert grown.ledger.out == PAIRS + 5 - 1
    lake.run()

    report = run_takedown(root, Wanted([uid(1), uid(22)], [], ["bad.example.org"]), progress=silent)
    assert (report.rows, report.images) == (len(GONE), len(GONE))
    assert {"caption", "shard", "index", "score"} <= {place.stage for place in report.contained}
    content = b"".join(
        read_bytes(join(root, name)) for name in list_files(root) if name.endswith(".tar")
    )
    for number in range(PAIRS):
        is_there = picture_of(uid(number)) in content
        assert is_there == (number not in GONE and FAILED.get(number) != "http_404")
    for name in list_files(root):
        if name.endswith("/manifest.json"):
            folder = join(root, name.rpartition("/")[0])
            manifest = read_manifest(folder)
            verify_sizes(folder, manifest)
            assert all(sha256_of(join(folder, f.name)) == f.sha256 for f in manifest.files)
    assert not is_committed(identify(recipe)["acquire"].uri)
    lake.run()
    members = local_copy(join(identify(recipe)["shard"].uri, "members.parquet"))
    packed = set(pq.read_table(members)["uid"].to_pylist())
    lost = {*GONE, *(n for n, reason in FAILED.items() if reason == "http_404")}
    assert packed == {uid(n) for n in range(PAIRS + 5)} - {uid(n) for n in lost}
