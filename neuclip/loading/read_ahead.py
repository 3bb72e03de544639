"""Fetch the shards of the next steps while the present ones are trained on."""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Protocol

from neuclip.foundation.children import describe_exit, die_with_parent
from neuclip.foundation.errors import NeuclipError

log = logging.getLogger(__name__)

_AT_ONCE = 4
_POLL_S = 0.05


class _Step(Protocol):
    value: int


@contextmanager
def read_ahead(
    wanted: Callable[[int], list[str]], fetch: Callable[[str], None], *, first: int
) -> Generator[Callable[[int], None]]:
    """Run a process that fetches what the steps from the present one on will read.

    It is a process because fetching takes the interpreter's lock from a loop that feeds a GPU. What it cannot
    fetch is left to whoever needs it, with the same error.

    Args:
        wanted: names the shards of a step and of those after it, first needed first.
        fetch: gets one, or notes that it is still of use.
        first: step to begin with.
    Yields: what to call with the number of each step; it starts the process again if something has ended it.
    """
    context = multiprocessing.get_context("fork")
    step = context.Value("q", first)

    def start() -> BaseProcess:
        child = context.Process(
            target=_fetch_for_ever, args=(wanted, fetch, step), name="read-ahead", daemon=True
        )
        child.start()
        return child

    child = start()

    def reached(number: int) -> None:
        nonlocal child
        step.value = number
        if not child.is_alive():
            how = describe_exit(child.exitcode or 0)
            log.warning("the process that fetches shards ahead ended with %s; starts another", how)
            child = start()

    try:
        yield reached
    finally:
        child.kill()
        child.join()


def _fetch_for_ever(
    wanted: Callable[[int], list[str]], fetch: Callable[[str], None], step: _Step
) -> None:
    """Fetch for the present step, wait for the next, and so on until terminated."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they are for the rank, which ends this process
    die_with_parent(signal.SIGKILL)

    def fetch_or_tell(name: str) -> None:
        try:
            fetch(name)
        except NeuclipError as error:
            log.warning("cannot read ahead: %s", error)

    done = None
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        while True:
            present = step.value
            if present == done:
                time.sleep(_POLL_S)
                continue
            list(threads.map(fetch_or_tell, wanted(present)))
            done = present
