"""Oracle: a server made for the test, of which it is known how each URL fails."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from made.tables import committed_rows, uid, write_table
from PIL import Image

from neuclip.acquire.config import AcquireConfig
from neuclip.demo.server import serving

pytestmark = pytest.mark.slow  # the demo's journey and tests/egress are the quick ones

TIMEOUT_S = 400
"""img2dataset starts for 15 s, on a busy machine for a minute."""


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def hostile_cases(url: str) -> list[tuple[str | None, str | None]]:
    """Pairs of URL and the reason it must get, None for success."""
    return [
        (f"{url}/good.jpg", None),
        (f"{url}/alpha.png", None),
        (f"{url}/gray.jpg", None),
        (f"{url}/good.jpg?again", None),
        (f"{url}/nothing.jpg", "http_404"),
        (f"{url}/../../etc/passwd", "http_404"),
        (f"{url}/-/status/403/x", "http_403"),
        (f"{url}/-/status/410/x", "http_410"),
        (f"{url}/-/status/429/x", "http_429"),
        (f"{url}/-/status/500/x", "http_5xx"),
        (f"{url}/garbage.jpg", "not_an_image"),
        (f"{url}/-/html", "not_an_image"),
        (f"{url}/-/empty", "not_an_image"),
        (f"{url}/huge.jpg", "too_large"),
        (f"{url}/-/truncated/good.jpg", "truncated"),
        (f"{url}/-/noai/good.jpg", "opt_out_header"),
        (f"{url}/-/slow/4/good.jpg", "timeout"),
        (f"http://127.0.0.1:{closed_port()}/good.jpg", "connection"),
        (f"{url}/a space.jpg", "http_404"),
        ("file:///etc/passwd", "bad_scheme"),
        ("good.jpg", "bad_scheme"),
        (None, "no_url"),
        ("  ", "no_url"),
    ]


@pytest.fixture(scope="module")
def two_runs(acquire, pictures, tmp_path_factory):
    """Acquire a hostile table, then the same folder with one more file."""
    tables = tmp_path_factory.mktemp("tables")
    root = tmp_path_factory.mktemp("root")
    requests: list[str] = []
    with serving(pictures, 0, on_request=requests.append) as server:
        cases = hostile_cases(server.url)
        rows = [
            {"uid": uid(n).upper(), "url": url, "caption": f"pair {n}", "texts": ["one", "", None]}
            for n, (url, _) in enumerate(cases)
        ]
        rows.append({**rows[0], "url": f"{server.url}/more.jpg"})  # a uid that was there before
        write_table(tables / "a.parquet", rows)
        config = AcquireConfig(
            table=str(tables),
            caption_columns={"words": "texts"},
            on_duplicate_uid="keep_first",
            image_size=32,
            partition_rows=12,
            egress={
                "allow_hosts": ["127.0.0.1"],
                "timeout_s": 2,
                "retries": 0,
                "max_image_pixels": 1_000_000,
                "host_concurrency": 8,
                "host_requests_per_s": 0,
            },
            max_failed_share=0.9,
            processes=1,
            threads=8,
        )
        reports: list[tuple[int, int]] = []

        def progress(stage, *, done, total, note=""):
            reports.append((done, total))

        first = acquire(config, root, progress=progress)
        before = {path: snapshot(path) for path in (root / "acquire" / "parts").rglob("*.*")}
        num_requests = len(requests)
        (tables / "b.csv").write_text(
            f"uid,url,caption,texts\n{uid(100)},{server.url}/more.jpg,late,\n", encoding="utf-8"
        )
        second = acquire(config, root)
    return SimpleNamespace(
        first=first,
        second=second,
        cases=cases,
        root=root,
        before=before,
        late_requests=requests[num_requests:],
        reports=reports,
    )


def snapshot(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mtime_ns


def rows_of(root: Path, parts: list[str]) -> list[dict]:
    return [
        {**row, "part": part}
        for part in parts
        for row in pq.read_table(root / "acquire" / "parts" / part / "rows.parquet").to_pylist()
    ]


@pytest.mark.timeout(TIMEOUT_S)
def test_every_row_gets_the_reason_its_url_was_made_for(two_runs):
    rows = rows_of(two_runs.root, two_runs.first.parts)
    assert [row["uid"] for row in rows] == [*map(uid, range(len(two_runs.cases))), uid(0)]
    found = [(row["url"], row["reason"]) for row in rows[:-1]]
    assert found == [((url or "").strip() or None, reason) for url, reason in two_runs.cases]
    assert rows[-1]["reason"] == "duplicate_uid"
    assert all((row["status"] == "success") == (row["reason"] is None) for row in rows)
    told = committed_rows(f"{two_runs.root}/acquire/{two_runs.first.key}")
    assert [row["captions"] for row in told] == [
        {"alt": [f"pair {n}"], "words": ["one"]} for n in [*range(len(two_runs.cases)), 0]
    ]


def test_the_ledger_counts_every_row_of_the_table(two_runs):
    ledger = two_runs.first.ledger
    reasons = [reason for _, reason in two_runs.cases if reason] + ["duplicate_uid"]
    assert (ledger.entered, ledger.out) == (len(two_runs.cases) + 1, 4)
    assert ledger.dropped == {reason: reasons.count(reason) for reason in set(reasons)}
    assert two_runs.first.summary["messages"]["http_404"] == {"HTTP 404 Not Found": 3}
    assert two_runs.reports[-1] == (ledger.entered, ledger.entered)


def test_offset_and_size_read_back_the_image(two_runs):
    successes = [r for r in rows_of(two_runs.root, two_runs.first.parts) if r["member"]]
    assert len(successes) == 4
    for row in successes:
        tar = two_runs.root / "acquire" / "parts" / row["part"] / "images.tar"
        content = tar.read_bytes()[row["offset"] : row["offset"] + row["size"]]
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.format == "JPEG"
            assert image.size == (row["width"], row["height"]) == (32, 32)
        assert (row["original_width"], row["original_height"]) == (64, 64)


def test_a_new_file_fetches_only_itself(two_runs):
    assert two_runs.late_requests == ["/robots.txt", "/more.jpg"]
    assert two_runs.second.parts[:-1] == two_runs.first.parts
    assert len(two_runs.first.parts) == 2
    assert two_runs.second.summary["reused"] == 2
    assert two_runs.first.summary["texts"] == {
        "alt": {"texts": len(two_runs.cases) + 1, "unusable": 0},
        "words": {"texts": len(two_runs.cases) + 1, "unusable": 0},
    }
    assert two_runs.second.ledger.out == 5
    assert {path: snapshot(path) for path in two_runs.before} == two_runs.before


def test_the_stage_folder_lists_its_partitions(two_runs):
    folder = two_runs.root / "acquire" / two_runs.second.key
    index = pq.read_table(folder / "partitions.parquet").to_pylist()
    assert [row["part"] for row in index] == two_runs.second.parts
    assert [(row["file"], row["first_row"], row["rows"]) for row in index] == [
        ("a.parquet", 0, 12),
        ("a.parquet", 12, 12),
        ("b.csv", 0, 1),
    ]


def members_of_group(group: int) -> list[int]:
    """Return the live processes of a process group, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def child_of(parent: int) -> int | None:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent and b"img2dataset_child" in command:
            return int(stat.parent.name)
    return None


RUN = """
import sys
from pathlib import Path
from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.run import run_acquire
from neuclip.foundation.progress import silent
from neuclip.stages.workspace import Workspace
base = Path(sys.argv[1])
for name in ("output", "scratch"):
    (base / name).mkdir()
egress = {"allow_hosts": ["127.0.0.1"], "timeout_s": 300, "deadline_s": 300}
config = AcquireConfig(table=sys.argv[2], egress=egress, max_failed_share=1.0)
workspace = Workspace(uri=str(base / "stage"), output=base / "output", scratch=base / "scratch")
run_acquire(config, root=str(base / "root"), workspace=workspace, progress=silent, force=False)
"""


@pytest.mark.timeout(TIMEOUT_S)
def test_killing_the_parent_ends_every_process_of_the_download(pictures, tmp_path):
    """Oracle: the process table of the machine."""
    requests: list[str] = []
    with serving(pictures, 0, on_request=requests.append) as server:
        row = {"uid": uid(1), "url": f"{server.url}/-/slow/200/good.jpg", "caption": "slow"}
        table = write_table(tmp_path / "slow.parquet", [row])
        with subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), table]) as parent:
            deadline = time.monotonic() + 150
            while not requests and time.monotonic() < deadline:
                assert parent.poll() is None
                time.sleep(0.2)
            group = child_of(parent.pid)
            assert group is not None
            assert len(members_of_group(group)) >= 3  # main, logger, worker
            os.kill(parent.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while members_of_group(group) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert members_of_group(group) == []
