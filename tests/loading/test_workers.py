"""Loading processes that end, stand still, or find no shared memory. Oracle: the system's own signals and disks."""

import os
import signal
import subprocess
import time
from contextlib import closing

import psutil
import pytest
import torch
from launching.programs import is_gone, wait_until
from loading.shared_memory import run_with_shared_memory

from neuclip.foundation.errors import ChildError, ConfigError, DataError
from neuclip.loading.batch import Batch
from neuclip.loading.batches import load_lists
from neuclip.loading.read_ahead import read_ahead
from neuclip.loading.shared_memory import require_shared_memory

pytestmark = pytest.mark.slow


class Samples:
    """Samples whose pixels are their numbers.

    Args:
        delays: sample id -> seconds of waiting before it is there, in pieces, with some work after each.
    """

    def __init__(self, *, px=4, delays=None, broken=None):
        self.px, self.delays, self.broken = px, delays or {}, broken

    def __getitems__(self, pairs):
        for _, number in pairs:
            if number == self.broken:
                raise DataError(f"sample {number} is broken")
            for _ in range(round(self.delays.get(number, 0) / 0.5)):
                time.sleep(0.5)
                end = time.process_time() + 0.03
                while time.process_time() < end:
                    pass
        ids = torch.tensor([number for _, number in pairs])
        images = ids.to(torch.uint8)[:, None, None, None].expand(-1, 3, self.px, self.px)
        return Batch.of_pairs(images.contiguous(), ids[:, None].clone(), ids)


def lists(count, size=2):
    return [[(0, size * n + k) for k in range(size)] for n in range(count)]


def load(samples, *, count=40, workers=2, timeout_s=60.0):
    return load_lists(samples, lists(count), workers=workers, pin_memory=False, timeout_s=timeout_s)


def ids(batches):
    return [number for batch in batches for number in batch.sample_ids.tolist()]


others: set[int] = set()
"""Children that were there before a test, such as a server of the session."""


@pytest.fixture(autouse=True)
def note_the_others():
    others.clear()
    others.update(process.pid for process in psutil.Process().children())


def loaders():
    found = [child for child in psutil.Process().children() if child.pid not in others]
    return sorted(found, key=lambda process: process.pid)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_to_a_whole_group_pass_them_by(workers, number):
    with closing(load(Samples(), workers=workers)) as batches:
        found = ids([next(batches)])
        for process in loaders():
            process.send_signal(number)
        found += ids(batches)
    assert found == list(range(80))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV])
@pytest.mark.parametrize("which", [0, 1])
def test_one_that_ends_is_named_with_its_cause(number, which):
    with closing(load(Samples(delays={50: 20, 52: 20}))) as batches:
        next(batches)
        victim = loaders()[which]
        os.kill(victim.pid, number)
        said = rf"loading process {which} of 2 \(pid {victim.pid}\) ended with signal {number.name}"
        with pytest.raises(ChildError, match=said) as error:
            ids(batches)
    known = {signal.SIGKILL: "memory was short", signal.SIGBUS: "shared memory was full"}
    assert known.get(number, "") in str(error.value)
    assert wait_until(lambda: not loaders(), seconds=5)


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_stands_still_is_named_and_ended(which):
    with closing(load(Samples(), count=400, timeout_s=2)) as batches:
        next(batches)
        victim = loaders()[which]
        victim.suspend()
        with pytest.raises(ChildError, match=rf"process {which} of 2 .* did nothing for 2 s"):
            ids(batches)
    assert is_gone(victim.pid)


def test_slow_storage_that_delivers_is_waited_for():
    slow = Samples(delays={2: 4, 5: 4})
    with closing(load(slow, count=4, timeout_s=2)) as batches:
        assert ids(batches) == list(range(8))


def test_a_reader_that_is_slow_itself_ends_nothing():
    with closing(load(Samples(), timeout_s=1)) as batches:
        found = ids([next(batches)])
        time.sleep(3)
        found += ids(batches)
    assert found == list(range(80))


def test_the_end_of_another_child_is_no_error_here():
    with closing(load(Samples())) as batches:
        next(batches)
        loaders()[0].kill()
        subprocess.run(["true"], check=True)  # and nothing is raised in here
        time.sleep(0.3)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_is_wrong_with_a_sample_is_said_as_in_line(workers):
    with (
        closing(load(Samples(broken=7), workers=workers)) as batches,
        pytest.raises(DataError) as error,
    ):
        ids(batches)
    assert str(error.value) == "sample 7 is broken"


def test_they_end_with_a_reader_that_leaves_early():
    batches = load(Samples(delays={9: 30}))
    next(batches)
    left = loaders()
    assert len(left) == 2
    batches.close()
    assert all(is_gone(process.pid) for process in left)


def test_a_process_that_fetches_ahead_is_started_again(caplog):
    with read_ahead(lambda _: [], lambda _: None, first=0) as reached:
        [first] = loaders()
        first.kill()
        assert wait_until(lambda: is_gone(first.pid), seconds=5)
        reached(1)
        [second] = loaders()
        assert second.pid != first.pid
        reached(2)
        assert loaders() == [second]
    assert not loaders()
    assert "ended with signal SIGKILL; starts another" in caplog.text


LOAD = """
import sys
from loading.test_workers import Samples, load
try:
    print(sum(len(b.sample_ids) for b in load(Samples(px=int(sys.argv[1])), count=12, workers=int(sys.argv[2]))))
except Exception as error:
    print(type(error).__name__, error)
"""


def with_shared_memory(megabytes, code, *words):
    """Return what Python prints where there is this much."""
    return run_with_shared_memory(megabytes, ["-c", code, *map(str, words)]).stdout.strip()


@pytest.mark.parametrize(("px", "workers"), [(2400, 1), (2400, 2), (4000, 1)])
def test_a_small_shared_memory_ends_loading_with_its_cause(px, workers):
    """Docker's 64 MB; batches of 34.6 MB, where the one in use leaves no room for the next, and of 96 MB."""
    said = with_shared_memory(64, LOAD, px, workers)
    assert said.startswith("ConfigError a batch of ")
    assert "of 67.11 MB free" in said
    assert "--shm-size" in said


def test_without_loading_processes_none_is_needed():
    assert with_shared_memory(64, LOAD, 2000, 0) == "24"


REQUIRE = """
from neuclip.loading.shared_memory import require_shared_memory
try:
    print(require_shared_memory(8_000_000, batches=10))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_what_will_not_fit_is_refused_before():
    said = with_shared_memory(64, REQUIRE)
    assert said.startswith("ConfigError loading needs 80 MB of shared memory (10 batches of 8 MB)")
    assert "has 67.11 MB free" in said
    assert "train.loader.workers" in said
    assert "80 MB of" in with_shared_memory(128, REQUIRE)
    with pytest.raises(ConfigError):
        require_shared_memory(1 << 50, batches=1)
