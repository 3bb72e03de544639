"""Oracle: processes of this machine, asked over bytes that kill them, stop them, or keep them busy for minutes."""

import asyncio
import os
import resource
import signal
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from neuclip.egress.config import EgressConfig
from neuclip.egress.guard import running_guard
from neuclip.egress.judges import Judges
from neuclip.egress.refusal import Refusal
from tests.servers import odd_pictures
from tests.servers.odd_pictures import good_jpeg

GOOD = good_jpeg()
SMALL = EgressConfig(max_image_pixels=3_000_000)
PATIENCE_S = 100


def judging(work, *, config=SMALL, quick=2):
    """Run `work(judges)` and end all processes; tell what it returns."""

    async def main():
        judges = Judges(config, quick)
        try:
            await judges.started()
            return await asyncio.wait_for(work(judges), PATIENCE_S)
        finally:
            await judges.close()

    return asyncio.run(main())


async def reason_of(judges: Judges, body: bytes) -> str | None:
    try:
        await judges.picture(body)
    except Refusal as refusal:
        return f"{refusal.reason}: {refusal.detail}"
    return None


def processes(kind: str) -> list[psutil.Process]:
    """Return those of this test, quick or slow; what answers is the only child of each."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(
            psutil.NoSuchProcess
        ):  # it is ending, or was ended before the loop that began it
            words = child.cmdline()
            if "neuclip.egress.judge" in words and words[-1] == kind:
                found.append(child)
    return found


BUSY_FOR_SECONDS = odd_pictures.bmp_of_line_ends(40_000_000, side=1_700)
"""Of a size for which so many bytes are just believed."""


def test_what_takes_too_long_is_ended_and_costs_nobody_else():
    """Oracle: a packed bitmap of nothing but line ends, which Pillow unpacks in Python, in seconds."""

    async def work(judges):
        slow = asyncio.create_task(reason_of(judges, BUSY_FOR_SECONDS))
        await asyncio.sleep(0.1)
        good = [await reason_of(judges, GOOD) for _ in range(100)]
        is_done = slow.done()
        turns = 0
        while not slow.done():
            turns += 1
            await asyncio.sleep(0.001)
        return good, is_done, turns, await slow

    good, is_done, turns, slow = judging(work)
    assert good == [None] * 100
    assert not is_done
    assert turns > 50
    assert "undecodable: takes more processor time" in slow


def test_the_deadline_of_a_url_ends_the_reading_and_the_next_goes_on():
    @asynccontextmanager
    async def within():
        async with asyncio.timeout(0.3):
            yield

    async def work(judges):
        with pytest.raises(TimeoutError):
            await judges.picture(BUSY_FOR_SECONDS, within)
        return [await reason_of(judges, GOOD) for _ in range(20)]

    assert judging(work, quick=1) == [None] * 20


DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGTERM)


@pytest.mark.parametrize("which", ["what answers", "what it was forked from"])
def test_a_process_that_somebody_ends_costs_nothing(which):
    """Oracle: the only process of its kind is held, asked, and ended by a signal before it can answer."""

    async def work(judges):
        found = {}
        for number in DEADLY:
            (process,) = processes("quick")
            (fork,) = process.children()
            fork.suspend()
            asked = [asyncio.create_task(reason_of(judges, GOOD)) for _ in range(20)]
            await asyncio.sleep(0.1)
            ended = fork if which == "what answers" else process
            ended.send_signal(number)
            with suppress(psutil.NoSuchProcess):  # SIGKILL does not wait
                ended.resume()
            found[number.name] = [await task for task in asked]
        return found

    assert judging(work, quick=1) == {number.name: [None] * 20 for number in DEADLY}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_bytes_that_end_every_process_cost_their_own_url_only(number):
    """Oracle: whatever reads a picture that takes a while is ended, again and again."""
    large = odd_pictures.with_segment(
        odd_pictures.written(odd_pictures.busy_picture().resize((1600, 1200)), "JPEG"),
        0xE1,
        b"Exif\0\0" + odd_pictures.exif_turned(),
    )

    async def work(judges):
        first = asyncio.create_task(reason_of(judges, large))
        while not first.done():
            for process in processes("quick"):
                with suppress(psutil.NoSuchProcess):
                    for fork in process.children():
                        if sum(fork.cpu_times()[:2]) > 0:  # it has begun
                            fork.send_signal(number)
            await asyncio.sleep(0.002)
        return first.result(), [await reason_of(judges, GOOD) for _ in range(20)]

    said = f"undecodable: reading it ended the process that read it: {number.name}"
    assert judging(work, quick=1) == (said, [None] * 20)


def test_what_ends_over_a_question_is_replaced_by_a_fork():
    """Oracle: the process is the same before and after, and what answered in it another."""

    async def work(judges):
        (process,) = processes("slow")
        (before,) = process.children()
        said = await reason_of(judges, BUSY_FOR_SECONDS)
        (after,) = processes("slow")
        (fork,) = after.children()
        return said, after.pid == process.pid, fork.pid != before.pid, await reason_of(judges, GOOD)

    said, *rest = judging(work)
    assert "takes more processor time" in said
    assert rest == [True, True, None]


def test_a_process_has_a_limit_of_memory_and_says_so():
    """Oracle: the same picture with and without memory for it."""
    large = odd_pictures.large_and_deep()

    async def work(judges):
        before = await reason_of(judges, large)
        (process,) = processes("slow")
        (fork,) = process.children()
        limit, _ = resource.prlimit(fork.pid, resource.RLIMIT_AS)
        now = fork.memory_info().vms + 20_000_000
        resource.prlimit(fork.pid, resource.RLIMIT_AS, (now, now))
        return before, limit, await reason_of(judges, large), await reason_of(judges, GOOD)

    before, limit, after, good = judging(work, config=EgressConfig(), quick=1)
    assert (before, good) == (None, None)
    assert 1_000_000_000 < limit < 3_000_000_000
    assert after == "too_large: takes more memory than a picture may"


def test_rules_that_cannot_be_read_end_soon_and_others_are_read_meanwhile():
    async def work(judges):
        task = asyncio.create_task(judges.allows(odd_pictures.endless_rules(), "http://a.test/b"))
        await asyncio.sleep(0.1)
        rules = b"User-agent: *\nDisallow: /b\nCrawl-delay: 2"
        found = [await judges.allows(rules, f"http://a.test/{path}") for path in "ab"]
        with pytest.raises(Refusal, match="robots_unreachable"):
            await task
        return found

    assert judging(work) == [(True, 2.0), (False, 2.0)]


@pytest.mark.slow
def test_there_is_one_for_each_core_that_may_be_used(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    for used in {1, min(len(cores), 8)}:
        os.sched_setaffinity(0, cores[:used])
        try:
            with running_guard(EgressConfig(), tmp_path / f"{used}.jsonl") as guard:
                kinds = [child.cmdline()[-1] for child in psutil.Process(guard.pid).children()]
        finally:
            os.sched_setaffinity(0, cores)
        assert sorted(kinds) == ["quick"] * used + ["slow"] * max(1, used // 2)


@pytest.mark.slow
def test_they_end_with_the_guard_however_it_ends(tmp_path):
    with running_guard(EgressConfig(), tmp_path / "journal.jsonl") as guard:
        found = psutil.Process(guard.pid).children()
        assert len(found) >= 2
        os.kill(guard.pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while any(is_alive(child.pid) for child in found) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(is_alive(child.pid) for child in found)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
