"""The lease on a stage's key: one run at a time makes it, the others wait.

It lies at `<root>/.leases/`, beside what is committed. Who has it gives signs of life; it is taken from an owner that
is dead, and who lost it so commits nothing.
"""

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from neuclip.foundation.errors import NeuclipError, StorageError
from neuclip.stages.heart import beating
from neuclip.stages.lease_places import Held, Place, all_places, place_of
from neuclip.stages.owner import STALE_S, Owner, Seen, this_process

log = logging.getLogger(__name__)

_POLL_S = 1.0
_TELL_AGAIN_S = 60.0


class _LostError(BaseException):
    """Raised in the thread that works, wherever it is."""


class Lease:
    """The right to make something at a root."""

    def __init__(self, what: str, held: Held) -> None:
        self._what, self._held = what, held
        self._one_at_a_time = threading.Lock()

    def beat(self) -> bool:
        """Give a sign of life; tell whether the lease is still ours."""
        with self._one_at_a_time:
            return self._held.beat()

    def check(self) -> None:
        """Do nothing if the lease is ours; call it before what others will take for done.

        Raises: StorageError: if another run has it by now.
        """
        if not self.beat():
            raise self.lost()

    def lost(self) -> StorageError:
        """Return the error of a run that lost it."""
        return StorageError(
            f"another run has taken over {self._what}, because this one gave no sign of life for {STALE_S:.0f} s "
            "(was it stopped, or its storage out of reach?); this run committed nothing of it. Run again: it waits for "
            "the other one, or goes on from what it left"
        )


@contextmanager
def leased(root: str, stage: str, key: str, *, part: bool = False) -> Generator[Lease]:
    """Hold the lease on a key as long as the block lasts; wait for it as long as a living run holds it.

    Raises: StorageError: if it was lost, because this process was stopped for long.
    """
    what = f"{stage} {'partition ' * part}{key}"
    place = place_of(root, f"{stage}-{'part-' * part}{key}.json")
    held = _take(place, what)
    lease = Lease(what, held)
    try:
        with _interrupted_when_lost() as interrupt, beating(lease.beat, interrupt):
            yield lease
    except _LostError:
        raise lease.lost() from None
    finally:
        with suppress(NeuclipError):  # it is stale soon
            held.remove()


def sweep_leases(root: str) -> None:
    """Remove the leases of dead runs."""
    for place in all_places(root):
        seen = place.look()
        if seen is not None and seen.is_stale():
            held = place.take_over(this_process(), seen)
            if held is not None:
                held.remove()


def _take(place: Place, what: str) -> Held:
    """Take a lease, from a dead owner too."""
    me = this_process()
    stamp, since, told_at = b"", time.monotonic(), -_TELL_AGAIN_S
    while (held := place.create(me)) is None:
        seen = place.look()
        now = time.monotonic()
        if seen is None:
            time.sleep(_POLL_S / 10)
            continue
        if seen.stamp != stamp:
            stamp, since = seen.stamp, now
        if seen.is_stale(watched_s=now - since):
            held = place.take_over(me, seen)
            if held is not None:
                log.info("takes over %s from %s, which is dead", what, _named(seen.owner))
                return held
        elif now - told_at >= _TELL_AGAIN_S:
            told_at = now
            log.warning("%s", _waiting(what, seen, now - since))
        time.sleep(_POLL_S)
    return held


def _waiting(what: str, seen: Seen, watched_s: float) -> str:
    since = "" if seen.owner is None else f" since {seen.owner.since}"
    silent_s = max(0.0, watched_s if seen.age_s is None else seen.age_s)
    return (
        f"waits for {_named(seen.owner)}, which has been making {what}{since}, last sign of life {silent_s:.0f} s ago; "
        "goes on when that run is done or dead"
    )


def _named(owner: Owner | None) -> str:
    return "another run" if owner is None else owner.describe()


@contextmanager
def _interrupted_when_lost() -> Generator[Callable[[], None]]:
    """Give a function that ends the block from another thread, between two steps of its Python code."""
    worker, guard, is_open = threading.get_ident(), threading.Lock(), [True]

    def interrupt() -> None:
        with guard:
            if is_open[0]:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(worker), ctypes.py_object(_LostError)
                )

    try:
        yield interrupt
    finally:
        with guard:
            is_open[0] = False
