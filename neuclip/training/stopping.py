"""The wish that training saves and stops, as signals bring it to a rank."""

import signal
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class _Woken(BaseException):
    """Ends a wait; no Exception, so that nothing on the way takes it for a failure of its own."""


class StopRequest:
    """Whether somebody has asked this rank to stop; heard from the moment this is made, in the main thread."""

    def __init__(self) -> None:
        self.has_come = False
        self._is_waiting = False
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def wait_for_next(self, things: Iterator[T]) -> T | None:
        """Return the next of things, or None as soon as somebody has asked, however long it takes to come.

        After None there is no next one.
        """
        try:
            try:
                self._is_waiting = True
                return None if self.has_come else next(things)
            finally:
                self._is_waiting = False
        except _Woken:
            return None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        is_first, self.has_come = not self.has_come, True
        if is_first and self._is_waiting:
            raise _Woken
