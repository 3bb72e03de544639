"""Run a program so that nothing of it is left, however its launcher ends."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from neuclip.foundation.children import die_with_parent, signal_group

GRACE_S = 20.0
"""Seconds between the wish to end and the end by force: time for a checkpoint."""
_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 0.1


def supervise(command: Sequence[str], *, leash: int | None, is_rank: bool) -> int:
    """Run a program to its end; whatever ends this process or the leash, all processes below end.

    SIGUSR1 is handed on to the ranks alone (the program, or what torchrun started): it asks them to save and
    stop, and would end torchrun and loading workers, which therefore ignore it.

    Args:
        leash: a file descriptor whose other end the launcher holds; when that is closed, by the launcher's
            death too, the program is ended.
        is_rank: the program is the only rank, not a launcher of ranks.
    Returns: its exit code, 128 + the signal's number where a signal ended it.
    """
    _become_subreaper()
    asked: list[
        int
    ] = []  # not an exception: a second signal, srun's own after scancel's, would break into the end

    def ask_to_end(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask_to_end)
    child = subprocess.Popen(  # noqa: S603  # a list of words, no shell
        list(command),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_in_the_child,  # noqa: PLW1509  # this process has one thread
    )

    def hand_on(number: int, frame: FrameType | None) -> None:
        del frame
        for pid in [child.pid] if is_rank else children_of(child.pid):
            _send(pid, signal.Signals(number))

    signal.signal(signal.SIGUSR1, hand_on)
    _wait(child, leash, asked)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
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


def _wait(child: subprocess.Popen[bytes], leash: int | None, asked: Sequence[int]) -> None:
    while child.poll() is None and not asked:
        if leash is None:
            time.sleep(_TICK_S)
        elif select.select([leash], [], [], _TICK_S)[0] and not os.read(leash, 4096):
            return


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the program, a grace time, then SIGKILL to all that is left, until nothing is."""
    if child.poll() is None:
        signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(GRACE_S + 2)  # torchrun gives its ranks GRACE_S
        except subprocess.TimeoutExpired:
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
