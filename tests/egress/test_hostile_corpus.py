"""Oracle: a web made for the tests, of which it is known what each URL must come to; see cases.py."""

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import OpenerDirector, ProxyHandler, build_opener

import psutil
import pytest
from PIL import Image

from neuclip.egress.guard import running_guard
from tests.egress.cases import NO_ADDRESSES, SHA256, Case, hostile_cases
from tests.egress.limits import peak_memory_bytes, strict
from tests.servers.hostile import Web, hostile_web
from tests.servers.odd_pictures import turned_jpeg

CASES = hostile_cases()
FIXED = [case for case in CASES if case.times is not None]
SUCCESSES = [case for case in CASES if case.reason is None]

THREADS = 48
PATIENCE_S = 30
"""Longer than any answer of the guard takes: two tries of three seconds, and a busy machine."""
LONGEST_RUN_S = 60
PEAK_MEMORY_BYTES = 300_000_000
"""Three times what it takes: a body is 2 MB at most and a picture 1 megapixel; one bomb that went off takes more."""
COLOUR_TOLERANCE = 12
"""What the rounding of JPEG and CMYK may change of a value between 0 and 255."""


@dataclass(frozen=True)
class Visit:
    """What the client got for one URL, and what the guard noted."""

    status: int
    body: bytes
    fetch_records: list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """The whole corpus, asked for once; the web is still there."""

    web: Web
    visits: dict[str, Visit]
    seconds: float
    peak_memory_bytes: list[int]
    """Of the guard and the processes that it reads pictures with."""


def ask(opener: OpenerDirector, uid: str, url: str, sha256: str) -> tuple[int, bytes]:
    """Ask the guard the way the downloader does."""
    quoted = quote(url.encode("utf-8", "surrogateescape"), safe="")
    try:
        with opener.open(
            f"http://guard.invalid/{uid}?url={quoted}&sha256={sha256}", timeout=PATIENCE_S
        ) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def visit_all(web: Web, folder: Path) -> Run:
    journal = folder / "journal.jsonl"
    uids = {case.name: f"{number:032x}" for number, case in enumerate(CASES)}
    with running_guard(strict(web), journal) as guard:
        opener = build_opener(ProxyHandler({"http": guard.proxy_url}))
        began = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            answers = pool.map(
                lambda case: ask(opener, uids[case.name], case.at(web), case.sha256), CASES
            )
            got = dict(zip(uids, answers, strict=True))
        seconds = time.monotonic() - began
        processes = [guard.pid, *(child.pid for child in psutil.Process(guard.pid).children())]
        peaks = [peak_memory_bytes(pid) for pid in processes]
    fetch_records = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    visits = {
        name: Visit(*got[name], [line for line in fetch_records if line["uid"] == uid])
        for name, uid in uids.items()
    }
    return Run(web, visits, seconds, peaks)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Generator[Run]:
    folder = tmp_path_factory.mktemp("hostile")
    with hostile_web(folder) as web, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(web.authority))
        yield visit_all(web, folder)


def over_white(image: Image.Image) -> Image.Image:
    """Return the picture as the downloader stores it, which lays what is transparent over white."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def named(cases: list[Case]):
    return pytest.mark.parametrize("case", cases, ids=lambda case: ascii(case.name)[1:-1])


@named(CASES)
def test_a_url_comes_to_what_it_was_made_for(run, case):
    visit = run.visits[case.name]
    (record,) = visit.fetch_records
    assert record["reason"] in (*case.reasons, *([None] if case.is_broken else [])), record
    assert (visit.status == 200) == (record["reason"] is None)
    assert bool(record["detail"]) == (record["reason"] is not None)


def test_nobody_came_to_the_canary(run):
    assert run.web.canary.visits == []


@named(FIXED)
def test_what_fails_for_good_is_asked_for_once_and_what_fails_for_now_twice(run, case):
    assert case.requests(run.web) == case.times


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of odd metadata
@named(SUCCESSES)
def test_a_success_is_the_picture_as_it_is_shown(run, case):
    with Image.open(io.BytesIO(run.visits[case.name].body)) as image:
        assert image.size == case.size
        assert case.has_exif or not image.getexif()
        shown = over_white(image)
    width, height = shown.size
    for number, colour in enumerate(case.corners):
        place = (width * (1 + number % 2 * 2) // 4, height * (1 + number // 2 * 2) // 4)
        found = shown.getpixel(place)
        far = max(abs(a - b) for a, b in zip(found, colour, strict=True))
        assert far <= COLOUR_TOLERANCE, (place, found, colour)


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("pictures/good", SHA256),
        ("lengths/chunks", SHA256),
        ("redirects/status/301", SHA256),
        ("pictures/turned.jpg", hashlib.sha256(turned_jpeg()).hexdigest()),
    ],
)
def test_the_sum_is_that_of_the_bytes_before_anything_was_done_to_them(run, name, sha256):
    (record,) = run.visits[name].fetch_records
    assert record["sha256"] == sha256


def test_no_name_server_is_asked_for_what_stands_in_brackets(run):
    """Of the names in the brackets all but two exist, so that they would be found."""
    names = {host.strip("[]").lower() for host in NO_ADDRESSES} - {"urls.test"}
    assert {name: run.web.names.count(name) for name in names} == dict.fromkeys(names, 0)


def test_no_host_is_asked_twice_for_its_rules(run):
    asked = Counter(
        {
            site: run.web.counts.requests(site, "/robots.txt")
            for site in ("pictures", "urls", "statuses", "opt-out", "partly-closed")
        }
    )
    assert set(asked.values()) == {1}, asked


@pytest.mark.parametrize(
    "asked",
    [
        "lengths/announced-too-large",
        "lengths/endless",
        "lengths/endless-chunks",
        "lengths/one-endless-chunk",
        "lengths/endless-gzip",
        "protocol/endless-head",
        "protocol/endless-line",
        "redirects/big-body",
        "opt-out/endless",
        "robots-is-endless/robots.txt",
    ],
)
def test_an_endless_answer_is_left_soon(run, asked):
    """The limit is 2 MB; the rest is what the buffers of both sides took."""
    site, slash, path = asked.partition("/")
    assert 0 < run.web.counts.sent_bytes(site, slash + path) < 16_000_000


def test_the_guard_stays_small_and_quick(run):
    assert len(run.peak_memory_bytes) >= 3
    assert max(run.peak_memory_bytes) < PEAK_MEMORY_BYTES
    assert run.seconds < LONGEST_RUN_S


def test_the_corpus_is_large_and_names_each_case_once():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 70
