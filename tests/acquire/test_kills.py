"""Killed at any moment with all its processes and run again, acquire ends with every uid once and balanced ledgers.

Oracle: the table, the counts of the server, and what lies at the root.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.kills import FEW_KILLS, KILLS
from made.tables import uid, write_table
from servers.s3 import s3_bucket, s3_environment, s3_url

from neuclip.demo.server import serving
from neuclip.stages.manifest import is_committed, read_manifest
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders, write_bytes
from neuclip.storage.uris import join
from tests.acquire.conftest import picture

__all__ = ["s3_bucket", "s3_environment", "s3_url"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

PARTITION_ROWS = 100

RUN = """
import sys
from neuclip.acquire.config import STAGE_VERSION, AcquireConfig
from neuclip.acquire.run import run_acquire
from neuclip.foundation.progress import silent
from neuclip.stages.workspace import StageIdentity, commit_stage
table, root = sys.argv[1:]
config = AcquireConfig(table=table, image_size=32, partition_rows=100, threads=16, max_failed_share=0.5,
    egress={"allow_hosts": ["127.0.0.1"], "host_concurrency": 32, "host_requests_per_s": 0, "retries": 0})
print("begun", flush=True)
commit_stage(StageIdentity("acquire", STAGE_VERSION, "k", config.keyed(), {}, root), lambda w: run_acquire(
    config, root=root, workspace=w, progress=silent, force=False))
"""


def all_below(pid: int) -> list[int]:
    """Return a process and all that it has started, in whatever group they are."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def kill_all(pid: int) -> None:
    for each in all_below(pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def table_of(folder: Path, url: str, count: int) -> str:
    """Nine rows in ten lead to a picture; the others are missing."""
    rows = [
        {"uid": uid(n), "url": f"{url}/{'good' if n % 10 else 'none'}.jpg?{n}", "caption": str(n)}
        for n in range(count)
    ]
    return write_table(folder / "table.parquet", rows)


def begin(table: str, root: str) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, table, root], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    return child


def outcomes(root: str) -> dict[str, list[str | None]]:
    """Return the reasons of every uid in the partitions that the stage lists, one for each time it is there."""
    found: dict[str, list[str | None]] = {}
    acquire_uri = join(root, "acquire")
    for part in read_manifest(join(acquire_uri, "k")).parts:
        folder = join(acquire_uri, "parts", part)
        rows = pq.read_table(local_copy(join(folder, "rows.parquet"))).to_pylist()
        images = local_copy(join(folder, "images.tar")).read_bytes()
        for row in rows:
            found.setdefault(row["uid"], []).append(row["reason"])
            if row["status"] == "success":
                stored = images[row["offset"] : row["offset"] + row["size"]]
                assert stored[:2] == b"\xff\xd8"
    return found


@pytest.mark.parametrize(("place", "kills"), [("folder", KILLS), ("bucket", FEW_KILLS)])
def test_killed_at_random_moments(place, kills, tmp_path, request):
    root = str(tmp_path / "root") if place == "folder" else request.getfixturevalue("s3_bucket")
    web = tmp_path / "web"
    web.mkdir()
    (web / "good.jpg").write_bytes(picture(64, "JPEG"))
    requests: list[str] = []
    draw = random.Random(7)
    rows = min(500 * kills, 5_000)  # more than its runs can fetch before they are killed
    with serving(web, 0, on_request=requests.append) as server:
        table = table_of(tmp_path, server.url, rows)
        killed, committed = 0, []
        while killed < kills:
            child = begin(table, root)
            in_start_up = draw.random() < 1 / 3
            before, enough = (
                len(requests),
                0 if in_start_up else draw.randrange(1, 4 * PARTITION_ROWS),
            )
            delay_s = draw.uniform(0, 12 if in_start_up else 0.8)
            deadline = time.monotonic() + 240
            while len(requests) - before < enough and child.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(delay_s)
            assert child.poll() is None  # there was something left to do
            kill_all(child.pid)
            child.communicate()
            killed += 1
            parts = list_folders(join(root, "acquire", "parts"))
            committed.append(
                sum(is_committed(join(root, "acquire", "parts", part)) for part in parts)
            )
        for part in list_folders(join(root, "acquire", "parts")):
            folder = join(root, "acquire", "parts", part)
            if not is_committed(folder):  # nobody may take it for anybody's work
                write_bytes(join(folder, "rows.parquet"), b"half a file")
        child = begin(table, root)
        assert child.communicate() is not None
        assert child.returncode == 0
    assert committed == sorted(committed)  # what was committed stays
    assert kills < 10 or committed[-1] > 0  # many kills meet commits too
    found = outcomes(root)
    assert sorted(found) == sorted(uid(n) for n in range(rows))
    assert all(
        reasons == [None if n % 10 else "http_404"]
        for n, reasons in ((n, found[uid(n)]) for n in range(rows))
    )
    manifest = read_manifest(join(root, "acquire", "k"))
    assert json.loads(manifest.ledger.model_dump_json(by_alias=True))["in"] == rows
    assert manifest.ledger.dropped == {"http_404": rows // 10}
    assert len(manifest.parts) == rows // PARTITION_ROWS
    print(f"{killed} kills, {len(requests)} requests, committed after each: {committed}")
