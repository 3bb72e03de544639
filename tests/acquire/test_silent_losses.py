"""img2dataset's silent losses: each is brought about in the real program, and must end in all rows or in an error.

The fourth, a rerun over another table into the same folder, is in test_appended_rows.py.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.tables import uid, write_table

from neuclip.acquire.config import AcquireConfig
from neuclip.demo.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
GENTLY = {
    "allow_hosts": ["127.0.0.1"],
    "host_concurrency": 32,
    "host_requests_per_s": 0,
    "robots": False,
}

RUN = """
import resource, signal, sys
from neuclip.acquire.config import STAGE_VERSION, AcquireConfig
from neuclip.acquire.run import run_acquire
from neuclip.foundation.progress import silent
from neuclip.stages.workspace import StageIdentity, commit_stage
table, root, largest_file = sys.argv[1:]
if int(largest_file):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file),) * 2)
config = AcquireConfig(table=table, resize_mode="no", partition_rows=40, processes=1, threads=4, stall_s=10,
    egress={"allow_hosts": ["127.0.0.1"], "host_concurrency": 32, "host_requests_per_s": 0, "robots": False})
commit_stage(StageIdentity("acquire", STAGE_VERSION, "k", config.keyed(), {}, root), lambda w: run_acquire(
    config, root=root, workspace=w, progress=silent, force=False))
"""


def run(table: str, root: Path, largest_file: int = 0) -> subprocess.Popen:
    words = [sys.executable, "-c", RUN, table, str(root), str(largest_file)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def rows_to(url: str, count: int = 40) -> list[dict]:
    return [{"uid": uid(n), "url": f"{url}?{n}", "caption": f"pair {n}"} for n in range(count)]


def committed_rows(root: Path) -> list[dict]:
    paths = sorted((root / "acquire" / "parts").glob("*/rows.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_columns_that_json_cannot_hold_cost_no_row(acquire, pictures, tmp_path):
    """img2dataset drops every sample of such a table, and reports successes."""
    with serving(pictures, 0) as server:
        rows = [
            {
                **row,
                "taken": datetime(2020, 1, 1 + n % 28),  # noqa: DTZ001  # as tables have them
                "raw": bytes([n]),
                "price": Decimal(n),
            }
            for n, row in enumerate(rows_to(f"{server.url}/good.jpg"))
        ]
        table = write_table(tmp_path / "t.parquet", rows)
        kept = ["taken", "raw", "price"]
        config = AcquireConfig(table=table, keep_columns=kept, egress=GENTLY, processes=1)
        manifest = acquire(config, tmp_path / "root")
    assert (manifest.ledger.entered, manifest.ledger.out) == (40, 40)
    folder = tmp_path / "root" / "acquire" / manifest.key / "columns"
    columns = pq.read_table(folder / f"{manifest.parts[0]}.parquet").to_pylist()
    assert [row["price"] for row in columns] == [Decimal(n) for n in range(40)]
    assert [row["taken"] for row in columns] == [row["taken"] for row in rows]


def test_a_shard_that_fails_twice_is_an_error(pictures, tmp_path):
    """img2dataset prints it and ends with exit code 0. Oracle: files of which none may grow past 16 KiB."""
    root = tmp_path / "root"
    with serving(pictures, 0) as server:
        table = write_table(tmp_path / "t.parquet", rows_to(f"{server.url}/huge.jpg"))
        limited = run(table, root, largest_file=100_000)
        error = limited.communicate()[1]
        assert limited.returncode != 0
        assert "without finishing 1 of 1 partitions" in error
        assert committed_rows(root) == []
        again = run(table, root)
        assert again.communicate() is not None
        assert again.returncode == 0
    assert [row["reason"] for row in committed_rows(root)] == [None] * 40


def workers_below(pid: int) -> list[int]:
    """Return img2dataset's workers: what its main process has spawned, the resource tracker aside."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            group = int(stat.read_text().rpartition(")")[2].split()[2])
            words = (stat.parent / "cmdline").read_bytes()
            if group == pid and b"spawn_main" in words:
                found.append(int(stat.parent.name))
    return found


def downloader_of(parent: int) -> int:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = (stat.parent / "cmdline").read_bytes()
            if (
                int(stat.read_text().rpartition(")")[2].split()[1]) == parent
                and b"img2dataset" in words
            ):
                return int(stat.parent.name)
    raise AssertionError("no img2dataset was started")


def test_a_worker_that_is_killed_hangs_nothing(pictures, tmp_path):
    """img2dataset waits for ever for the shard of a worker that the kernel ended."""
    root = tmp_path / "root"
    requests: list[str] = []
    with serving(pictures, 0, on_request=requests.append) as server:
        table = write_table(tmp_path / "t.parquet", rows_to(f"{server.url}/-/slow/3/good.jpg"))
        child = run(table, root)
        while len(requests) < 6:  # of four threads: some pictures have been handed on
            assert child.poll() is None
            time.sleep(0.1)
        for pid in workers_below(downloader_of(child.pid)):
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        error = child.communicate()[1]
        assert child.returncode != 0
        assert time.monotonic() - began < 60
        assert "nothing for 10 s with 1 partitions unfinished" in error
    assert committed_rows(root) == []
