"""Oracle: a server that counts what it answered, and the same table fetched from a server that never fails."""

import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.demo_web import DEMO_RECIPE
from made.fetched import commit_fetched
from made.tables import uid, write_table

from neuclip.foundation.errors import ConfigError
from neuclip.journey import identify, plan, run_stage
from neuclip.recipe import Recipe, load_recipe
from neuclip.repair import repair
from neuclip.stages.manifest import read_manifest

TIMEOUT_S = 1800
"""A download starts for 15 s, on a busy machine for minutes."""
ROWS, ROWS_A_PARTITION = 120, 30
DEAD = {17, 63}
"""Rows whose picture is gone for good."""


class FlakyServer(ThreadingHTTPServer):
    """Answers a share of all addresses with 503 when they are asked for the first time, and ever while it is down."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, picture: bytes, failing_share: float) -> None:
        self.picture, self.failing_share, self.is_down = picture, failing_share, False
        self.requests: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def fails_first(self, path: str) -> bool:
        return zlib.crc32(path.encode()) % 1000 < 1000 * self.failing_share


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyServer

    def do_GET(self) -> None:
        server = self.server
        if self.path == "/robots.txt":
            self._answer(404, b"")
            return
        with server.lock:
            server.requests[self.path] += 1
            is_first = server.requests[self.path] == 1
        if server.is_down or (is_first and server.fails_first(self.path)):
            self._answer(503, b"")
        elif self.path.removeprefix("/") in {str(number) for number in DEAD}:
            self._answer(404, b"")
        else:
            with server.lock:
                server.answered[self.path] += 1
            self._answer(200, server.picture)

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def flaky(picture: bytes, failing_share: float) -> Generator[FlakyServer]:
    server = FlakyServer(picture, failing_share)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def table_rows(server: FlakyServer, count: int) -> list[dict]:
    url = f"http://127.0.0.1:{server.server_port}"
    return [{"uid": uid(n), "url": f"{url}/{n}", "caption": f"pair {n}"} for n in range(count)]


def fields_of(base: Path) -> dict:
    return {
        "root": str(base / "lake"),
        "acquire": {
            "table": str(base / "urls.parquet"),
            "partition_rows": ROWS_A_PARTITION,
            "image_size": 32,
            "processes": 1,
            "threads": 8,
            "egress": {
                "allow_hosts": ["127.0.0.1"],
                "retries": 0,
                "host_concurrency": 8,
                "host_requests_per_s": 0,
            },
        },
        "evaluate.sets": [],
        "curate.decontaminate": None,
    }


def make_recipe(base: Path, server: FlakyServer, count: int = ROWS) -> Recipe:
    write_table(base / "urls.parquet", table_rows(server, count))
    return load_recipe(DEMO_RECIPE, fields_of(base))


def final_set(recipe: Recipe) -> dict[str, tuple[str | None, str | None]]:
    """Return the final outcome of every uid: reason and hash of the image; a uid is a success at most once."""
    uri = Path(identify(recipe)["acquire"].uri)
    words, successes = {}, Counter()
    for part in read_manifest(str(uri)).parts:
        for row in pq.read_table(uri.parent / "parts" / part / "rows.parquet").to_pylist():
            words[row["uid"]] = (row["reason"], row["sha256"])
            successes[row["uid"]] += row["status"] == "success"
    assert set(successes.values()) <= {0, 1}
    return words


def transient(server: FlakyServer, first: int = 0, last: int = ROWS) -> set[int]:
    return {n for n in range(first, last) if server.fails_first(f"/{n}")}


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_a_repaired_flaky_server_gives_what_a_healthy_one_gives(pictures, tmp_path):
    """Must show 4, then a grown table (must show 5), then repairs that have nothing to do or nothing to win."""
    picture = (pictures / "good.jpg").read_bytes()
    with flaky(picture, 0) as healthy:
        recipe = make_recipe(tmp_path / "healthy", healthy)
        run_stage(recipe, "acquire")
        expected = final_set(recipe)
    with flaky(picture, 0.3) as server:
        failing = transient(server)
        assert 0.2 * ROWS < len(failing) < 0.4 * ROWS
        recipe = make_recipe(tmp_path, server)
        base = run_stage(recipe, "acquire")
        assert base.manifest.ledger.dropped["http_5xx"] == len(failing)

        server.is_down = True
        in_vain, report = repair(recipe)
        assert (in_vain.tried, in_vain.fetched, in_vain.retries) == (len(failing), 0, [])
        assert (report.state, report.key) == ("cached", base.key)
        server.is_down = False

        done, report = repair(recipe)
        assert (done.tried, done.fetched) == (len(failing), len(failing - DEAD))
        assert final_set(recipe) == expected
        assert report.manifest.ledger.dropped == {"http_404": len(DEAD)}
        assert report.manifest.ledger.entered == ROWS
        assert report.manifest.parts[:4] == base.manifest.parts
        assert report.key != base.key
        assert plan(recipe)[0].state == "done"
        assert set(server.answered.values()) == {1}

        requests = server.requests.copy()
        again, report = repair(recipe)
        assert (again.tried, report.state) == (0, "cached")
        assert server.requests == requests

        write_table(tmp_path / "urls.parquet", table_rows(server, ROWS + 10))
        grown = run_stage(recipe, "acquire")
        fresh = {f"/{n}" for n in range(ROWS, ROWS + 10)}
        assert set((server.requests - requests).keys()) == fresh
        assert [part for part in grown.manifest.parts if part in report.manifest.parts] == (
            report.manifest.parts
        )
        assert grown.manifest.ledger.out == len(server.answered)
        assert set(server.answered.values()) == {1}


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_a_thousand_appended_rows_are_fetched_and_no_other(pictures, tmp_path):
    """Must show 5: the partitions before are committed by hand, so a request for one of their rows is one too many."""
    before, after = 2_500, 3_500
    with flaky((pictures / "good.jpg").read_bytes(), 0) as server:
        recipe = make_recipe(tmp_path, server, before)
        config = recipe.acquire.model_copy(update={"partition_rows": 1_000})
        recipe = recipe.model_copy(update={"acquire": config})
        commit_fetched(config, recipe.root)
        first = run_stage(recipe, "acquire").manifest
        assert not server.requests
        write_table(tmp_path / "urls.parquet", table_rows(server, after))
        second = run_stage(recipe, "acquire").manifest
    assert server.requests == {f"/{number}": 1 for number in range(before, after)}
    assert second.parts[:3] == first.parts
    assert len(second.parts) == 4
    assert (second.ledger.entered, second.ledger.out) == (after, after)
    assert len(final_set(recipe)) == after


RUN = """
import sys
from neuclip.repair import repair
from neuclip.recipe import load_recipe
repair(load_recipe(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_a_repair_that_is_killed_goes_on_where_it_was(pictures, tmp_path):
    """Oracle: kill -9 of the whole group when a retry is committed; none of its images is fetched once more."""
    picture = (pictures / "good.jpg").read_bytes()
    with flaky(picture, 0.3) as server:
        recipe = make_recipe(tmp_path, server)
        base = run_stage(recipe, "acquire").manifest
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe.to_yaml())
        parts = tmp_path / "lake" / "acquire" / "parts"
        before = set(base.parts)
        child = subprocess.Popen([sys.executable, "-c", RUN, str(path)], start_new_session=True)
        while not (found := committed(parts) - before):
            assert child.poll() is None
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        kept = {
            row["url"].rpartition("/")[2]
            for part in committed(parts) - before
            for row in pq.read_table(parts / part / "rows.parquet").to_pylist()
        }
        requests = server.requests.copy()
        _, report = repair(recipe)
        asked = {path.removeprefix("/") for path in server.requests - requests}
        assert kept
        assert not kept & asked
        assert report.manifest.ledger.dropped == {"http_404": len(DEAD)}
        assert found <= set(report.manifest.parts)
        assert len(final_set(recipe)) == ROWS


def committed(parts: Path) -> set[str]:
    """Return the partitions that are committed; their texts lie in parts of their own."""
    folders = [path.parent for path in parts.glob("*/manifest.json")]
    return {folder.name for folder in folders if (folder / "rows.parquet").exists()}


def test_a_repair_needs_a_committed_stage(tmp_path):
    write_table(tmp_path / "urls.parquet", [{"url": "http://a/1", "caption": "c"}])
    with pytest.raises(ConfigError, match="run `--only acquire` first"):
        repair(load_recipe(DEMO_RECIPE, fields_of(tmp_path)))
