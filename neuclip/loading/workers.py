"""Loading processes: they live as long as their rank, and their end or standstill ends the run with its cause."""

import re
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch.utils.data import DataLoader, Dataset, get_worker_info

from neuclip.foundation.children import describe_exit, die_with_parent
from neuclip.foundation.errors import ChildError, NeuclipError
from neuclip.loading.batch import Batch
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shared_memory import no_room

PREFETCH = 4
"""Batches that each loading process may be ahead."""
_TICK_S = 1.0
_LATE_S = 10.0
_STOPPED = ("T", "t")
"""States of processes that were stopped: by a signal, by a debugger."""
_DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_CAUSES = {
    -signal.SIGKILL: "memory was short, most often: lower train.loader.workers or give more memory",
    -signal.SIGBUS: "shared memory was full, or a shard was cut while it was read: give more shared memory (docker run "
    "--shm-size) or lower train.loader.workers",
}


class _FromWorker(Dataset[Batch | NeuclipError]):
    """Samples whose errors come back as they are, and whose batches lie in shared memory before they are sent.

    Sending them puts them there too, but in a thread, where a lack of room loses the batch without a word.
    """

    def __init__(self, samples: ShardSamples) -> None:
        self._samples = samples

    def __getitems__(self, pairs: list[tuple[int, int]]) -> Batch | NeuclipError:
        if get_worker_info() is None:
            return self._samples.__getitems__(pairs)
        try:
            batch = self._samples.__getitems__(pairs)
        except NeuclipError as error:
            return error
        try:
            return batch.share_memory()
        except (RuntimeError, OSError) as error:
            return no_room(batch.num_bytes, error)


class Loading:
    """The loading processes of a rank at work.

    Args:
        timeout_s: seconds that the process whose batch is waited for may do nothing at all.
    """

    def __init__(
        self,
        samples: ShardSamples,
        lists: Iterable[list[tuple[int, int]]],
        *,
        workers: int,
        pin_memory: bool,
        timeout_s: float,
    ) -> None:
        loader = DataLoader(
            _FromWorker(samples),
            batch_sampler=lists,
            collate_fn=_as_it_is,  # pyright: ignore[reportArgumentType]  # __getitems__ gives a batch, not a list
            num_workers=workers,
            pin_memory=pin_memory,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=_begin,
        )
        before = set(active_children())
        with _deaf(), _own_handler_of_ended_children():
            self._batches: Iterator[Batch | NeuclipError] = iter(loader)
        # By the numbers in their names, so in the order in which they were started: they take turns.
        self._processes = sorted(
            set(active_children()) - before,
            key=lambda process: int(re.split("[-:]", process.name)[-1]),
        )
        self._timeout_s, self._number = timeout_s, 0
        self._waiting, self._closed = threading.Event(), threading.Event()
        self._stuck: BaseProcess | None = None
        if workers:
            threading.Thread(target=self._watch, name="loading-watch", daemon=True).start()

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises: ChildError: if a loading process has ended or does nothing. NeuclipError: as loading raises.
        """
        while True:
            try:
                self._waiting.set()
                loaded = next(self._batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if self._stuck:
                    self._stuck.join(_LATE_S)
                elif self._processes and not isinstance(error, RuntimeError):
                    self._await_an_end()
                if cause := self._cause():
                    raise cause from error
                raise
            finally:
                self._waiting.clear()
            self._number += 1
            if isinstance(loaded, NeuclipError):
                raise loaded
            yield loaded

    def close(self) -> None:
        """End the processes: they hold nothing, and one that waits for its storage would not heed a wish."""
        self._closed.set()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _await_an_end(self) -> None:
        """Wait until a process is seen to have ended: its connections are seen to break a moment before."""
        ended = wait([process.sentinel for process in self._processes], _LATE_S)
        for process in self._processes:
            if process.sentinel in ended:
                process.join(_LATE_S)

    def _cause(self) -> ChildError | None:
        """Return which process has ended, how, and what most often ends it so."""
        for number, process in enumerate(self._processes):
            if process is not (self._stuck or process) or process.exitcode is None:
                continue
            who = f"loading process {number} of {len(self._processes)} (pid {process.pid})"
            if self._stuck:
                return ChildError(
                    f"{who} did nothing for {self._timeout_s:g} s and was ended: its storage does not answer, or it "
                    "was stopped; look at the storage, or raise train.loader.timeout_s"
                )
            why = _CAUSES.get(process.exitcode)
            return ChildError(
                f"{who} ended with {describe_exit(process.exitcode)}" + (f"; {why}" if why else "")
            )
        return None

    def _watch(self) -> None:
        """Kill all once the process whose batch is waited for stands still; that ends the wait with its cause.

        A batch of another one may be on its way, and wait for an answer from a process that was stopped.
        """
        seen, since = (0, 0), time.monotonic()
        while not self._closed.wait(_TICK_S):
            process = self._processes[self._number % len(self._processes)]
            now = time.monotonic()
            done = (self._number, _state(process)[1])
            if done != seen or not self._waiting.is_set():
                seen, since = done, now
            elif now - since > self._timeout_s:
                stopped = (one for one in self._processes if _state(one)[0] in _STOPPED)
                self._stuck = next(stopped, process)
                for one in self._processes:
                    one.kill()
                return


def _state(process: BaseProcess) -> tuple[str, int]:
    """Return a process's state, a letter, and what it has used of its cores, in ticks.

    Slow storage moves the ticks, however slowly; a standstill does not.
    """
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])
    return "", 0


def _begin(number: int) -> None:
    del number
    die_with_parent(signal.SIGKILL)


@contextmanager
def _deaf() -> Generator[None]:
    """Start processes that no signal to their group reaches, for they are needed until their rank has saved."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _own_handler_of_ended_children() -> Generator[None]:
    """Undo what torch installs: an error raised in whatever runs when a process ends, a save for example."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


def _as_it_is(batch: Batch | NeuclipError) -> Batch | NeuclipError:
    """Return the batch: ShardSamples has put it together already."""
    return batch
