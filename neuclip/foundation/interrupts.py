"""Being told to end: by Ctrl-C, by SIGTERM as a container's stop sends it, by a terminal that is closed."""

import os
import signal
import stat
import sys
import time
from contextlib import suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_PRESS_S = 0.2
"""What comes again within this time is the same wish."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the program to end; what ends on the way out adds notes that say what is kept."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Interrupts:
    """What a program does when it is told to end: the first time it saves, the second time it just ends."""

    def __init__(self) -> None:
        self.is_at_work = False
        """Whether there is something to end in order; else the first signal ends the program at once."""
        self.told_by: int | None = None
        """The signal that came first."""
        self._told_at: list[float] = []

    def heed(self) -> None:
        """Raise Interrupted in the main thread at the first signal and at the second.

        A signal that is ignored already, by nohup or for a shell's background jobs, stays ignored.
        """
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        now, name = time.monotonic(), signal.Signals(number).name
        if number == signal.SIGHUP:
            _leave_terminal()
        if not self.is_at_work:
            _say(f"stopped by {name} before anything was begun")
            os._exit(128 + number)
        if self.told_by is None:
            self.told_by = number
            _say(f"{name}: stops, and saves first; once more ends at once, without saving")
        elif (
            len(self._told_at) > 1
            or number == signal.SIGHUP
            or now < self._told_at[0] + _ONE_PRESS_S
        ):
            return
        else:
            _say(f"{name} again: ends at once")
        self._told_at.append(now)
        raise Interrupted(number)


def _say(text: str) -> None:
    """Write a line past all buffers: the signal may have come in the middle of a print."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode())


def _leave_terminal() -> None:
    """Send all output but files nowhere: writing to a terminal that is gone is an error, which would end a save."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
