"""Run a program so that nothing of it is left, however its launcher ends."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from neuclip.foundation.children import QUIT, die_with_parent, signal_group

SAVE_S = 300.0
"""Seconds between the wish to end and the end by force: time for the largest checkpoint and its copy."""
_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 0.1
_TELL_AGAIN_S = 1.0


class _Wish:
    """What this process is asked for, by signals and on its control line: to go on, to save and end, to end at once.

    Signals are counted, not raised: a second one, srun's own after scancel's, would break into the end.
    """

    def __init__(self, control: int | None) -> None:
        self._control, self.is_to_end, self.is_to_quit = control, False, False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def listen(self, seconds: float) -> None:
        """Wait for a word on the control line; its closed end, by the launcher's death too, is a wish to end."""
        if self._control is None:
            time.sleep(seconds)
        elif select.select([self._control], [], [], seconds)[0]:
            said = os.read(self._control, 4096)
            self.is_to_end = True
            self.is_to_quit = self.is_to_quit or QUIT.strip().encode() in said
            if not said:
                self._control = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_to_end = True


def supervise(command: Sequence[str], *, control: int | None, is_rank: bool) -> int:
    """Run a program to its end; whatever ends this process or its control line, all processes below end.

    The ranks alone (the program, or what torchrun started) are told to save and stop, by SIGTERM; their
    loading workers live on until they have. SIGUSR1 is handed on to the ranks alone, too.

    Args:
        control: a file descriptor whose other end the launcher holds and writes END or QUIT to.
        is_rank: the program is the only rank, not a launcher of ranks.
    Returns: its exit code, 128 + the signal's number where a signal ended it.
    """
    _become_subreaper()
    wish = _Wish(control)
    child = subprocess.Popen(  # noqa: S603  # a list of words, no shell
        list(command),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_in_the_child,  # noqa: PLW1509  # this process has one thread
    )

    def tell_ranks(number: int, frame: FrameType | None = None) -> None:
        del frame
        # A torchrun without ranks has nothing that could be lost.
        for pid in [child.pid] if is_rank else children_of(child.pid) or [child.pid]:
            _send(pid, signal.Signals(number))

    signal.signal(signal.SIGUSR1, tell_ranks)
    while child.poll() is None and not wish.is_to_end:
        wish.listen(_TICK_S)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _let_save(child, wish, lambda: tell_ranks(signal.SIGTERM))
    _end_all(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and that still live."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(folder.name))
    return found


def _let_save(child: subprocess.Popen[bytes], wish: _Wish, tell_ranks: Callable[[], None]) -> None:
    """Tell the ranks to save and stop, again and again since torchrun may start new ones, and wait for the end."""
    begin, told_at = time.monotonic(), -_TELL_AGAIN_S
    while child.poll() is None and not wish.is_to_quit:
        now = time.monotonic()
        if now > begin + SAVE_S:
            return
        if now >= told_at + _TELL_AGAIN_S:
            tell_ranks()
            told_at = now
        wish.listen(_TICK_S)


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to all that is left, until nothing is."""
    if child.poll() is None:
        signal_group(child.pid, signal.SIGKILL)
        child.wait()
    # Orphans of the program have become children of this process, their own children after them.
    while left := children_of(os.getpid()):
        for pid in left:
            _send(pid, signal.SIGKILL)
        for pid in left:
            _reap(pid)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _in_the_child() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)


def _become_subreaper() -> None:
    """Ask Linux to hand orphans below this process to it instead of to the system's first process."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
