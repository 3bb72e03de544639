"""Oracle: the hostile corpus as one table; what each row must come to is known from tests/egress/cases.py."""

import io
import os
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from made.tables import committed_rows, uid, write_table
from PIL import Image

from neuclip.acquire.config import AcquireConfig
from neuclip.acquired.reasons import REASONS
from tests.egress.cases import Case, hostile_cases
from tests.egress.limits import peak_memory_bytes, strict
from tests.servers.hostile import hostile_web

TIMEOUT_S = 500
"""img2dataset starts for 15 s, on a busy machine for a minute."""
LONGEST_RUN_S = 300
WORKER_LIMIT_BYTES = 1.5 * 2**30

NOT_IN_A_TABLE = {"bad URL: not UTF-8"}
"""A text column of Parquet cannot hold it."""
IMAGE_SIZE = 24

CASES = [
    *(case for case in hostile_cases() if case.name not in NOT_IN_A_TABLE),
    Case("no URL", "", "no_url"),
    Case("only spaces", "   ", "no_url"),
    Case("a word", "good.jpg", "bad_scheme"),
]
BEFORE_THE_GUARD = dict.fromkeys(
    ("bad URL: no slashes", "bad URL: backslashes for slashes"), ("bad_scheme",)
)
"""The table's own check may give such a row another name."""


class MemoryWatch:
    """Looks at the processes that begin below this one, all the time, and keeps the highest peak of each."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @contextmanager
    def watching(self) -> Generator[None]:
        self._before = {child.pid for child in psutil.Process().children(recursive=True)}
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            for child in psutil.Process().children(recursive=True):
                if child.pid in self._before:
                    continue
                try:
                    name = f"{child.pid} {' '.join(child.cmdline()[1:4])}"
                    peak = peak_memory_bytes(child.pid)
                except (OSError, psutil.Error, ValueError):
                    continue  # it ended while it was looked at
                self.peaks[name] = max(peak, self.peaks.get(name, 0))


def table_rows(web) -> list[dict]:
    """One row a case; captions null, empty and of odd characters go around."""
    captions = ["a caption", None, "", "\U0001f431 \u202egnp.tac", "null\0inside", "line\nand line"]
    return [
        {
            "uid": uid(number),
            "url": case.at(web) or None,
            "caption": captions[number % len(captions)],
            "sha256": case.sha256 or None,
        }
        for number, case in enumerate(CASES)
    ]


@pytest.fixture(scope="module")
def run(acquire, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    memory = MemoryWatch()
    with hostile_web(folder) as web, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(web.authority))
        rows = table_rows(web)
        rows.append({**rows[0], "url": web.fill("http://pictures.test:{web}/good")})
        config = AcquireConfig(
            table=write_table(folder / "table.parquet", rows),
            on_duplicate_uid="keep_first",
            image_size=IMAGE_SIZE,
            partition_rows=150,
            max_failed_share=1.0,
            processes=2,
            threads=32,
            egress=strict(web),
        )
        began = time.monotonic()
        with memory.watching():
            manifest = acquire(config, folder / "root")
        seconds = time.monotonic() - began
        visits = list(web.canary.visits)
        fixed = {case.name: case.requests(web) for case in CASES if case.times is not None}
    parts = [folder / "root" / "acquire" / "parts" / part for part in manifest.parts]
    return SimpleNamespace(
        manifest=manifest,
        rows=committed_rows(str(Path(folder) / "root" / "acquire" / manifest.key)),
        parts=parts,
        table=rows,
        peaks=memory.peaks,
        seconds=seconds,
        visits=visits,
        asked=fixed,
    )


pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


def test_every_row_comes_to_what_it_was_made_for(run):
    assert [row["uid"] for row in run.rows] == [row["uid"] for row in run.table]
    wrong = [
        f"{case.name}: {row['reason']} ({row['detail']}), expected {case.reasons}"
        for case, row in zip(CASES, run.rows, strict=False)
        if row["reason"] not in (*case.reasons, *BEFORE_THE_GUARD.get(case.name, ()))
    ]
    assert not wrong, "\n".join(wrong)
    assert run.rows[-1]["reason"] == "duplicate_uid"


def test_the_ledger_balances(run):
    ledger = run.manifest.ledger
    reasons = Counter(row["reason"] for row in run.rows)
    assert (ledger.entered, ledger.out) == (len(run.table), reasons.pop(None))
    assert ledger.dropped == dict(reasons)
    assert reasons.keys() <= set(REASONS)
    assert all((row["status"] == "success") == (row["reason"] is None) for row in run.rows)


def test_the_tars_hold_the_successes_and_nothing_else(run):
    members: list[str] = []
    for part in run.parts:
        with tarfile.open(part / "images.tar") as tar:
            for member in tar:
                if not member.name.endswith(".json"):
                    members.append(member.name)
                    with Image.open(io.BytesIO(tar.extractfile(member).read())) as image:
                        image.load()
                        assert image.mode in ("RGB", "L")
                        assert not image.getexif()
    assert len(members) == run.manifest.ledger.out
    assert Counter(members) == Counter(row["member"] for row in run.rows if row["member"])


def test_captions_come_through_as_they_were(run):
    for row, planned in zip(run.rows, run.table, strict=True):
        caption = planned["caption"]
        assert row["captions"] == ({"alt": [caption]} if caption else {})
        assert row["unusable"] == {}
    texts = sum(1 for planned in run.table if planned["caption"])
    assert run.manifest.summary["texts"] == {"alt": {"texts": texts, "unusable": 0}}


def test_nobody_came_to_the_canary(run):
    assert run.visits == []


def test_what_fails_for_good_is_asked_for_once_and_what_fails_for_now_twice(run):
    assert run.asked == {case.name: case.times for case in CASES if case.name in run.asked}


def test_no_process_grows_large_and_nothing_hangs(run):
    assert len(run.peaks) >= 3  # the guard, img2dataset and a worker of it
    assert max(run.peaks.values()) < WORKER_LIMIT_BYTES, run.peaks
    assert run.seconds < LONGEST_RUN_S


def test_the_watch_sees_memory(tmp_path):
    """Oracle: a child that takes 200 MB."""
    memory = MemoryWatch()
    program = "b = bytearray(200_000_000); b[::4096] = b'1' * len(b[::4096]); input()"
    with memory.watching():
        child = psutil.Popen(["python3", "-c", program], stdin=-1)
        deadline = time.monotonic() + 20
        while max(memory.peaks.values(), default=0) < 200_000_000 and time.monotonic() < deadline:
            time.sleep(0.1)
        child.communicate(b"\n")
    assert max(memory.peaks.values()) > 200_000_000
    assert str(os.getpid()) not in {name.split()[0] for name in memory.peaks}
