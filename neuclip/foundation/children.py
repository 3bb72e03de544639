"""Child processes that do not outlive their work: own process group, streamed log, killed on every way out."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from pathlib import Path

from neuclip.foundation.errors import ChildError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_TERMINATION_GRACE_S = 10.0
_TAIL_LINES = 12


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux to signal this process when its parent ends, even by SIGKILL; call first thing in a child."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def run_child(
    command: Sequence[str],
    *,
    name: str,
    log_path: Path,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    on_tick: Callable[[], None] | None = None,
    tick_s: float = 1.0,
) -> None:
    """Run a program in its own process group until it ends, its output going to a log file.

    Args:
        on_line: is called with each line of output, in a thread of its own.
        on_tick: is called every `tick_s` seconds; an exception from it ends the child and is raised.
    Raises: ChildError: with the end of the log, if the exit code is not 0.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with log_path.open("a", encoding="utf-8") as log_file:
        child = subprocess.Popen(  # noqa: S603  # a list of words, no shell
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )

        def drain() -> None:
            for line in child.stdout or ():
                log_file.write(line)
                log_file.flush()
                tail.append(line.rstrip())
                if on_line is not None:
                    on_line(line.rstrip())

        # In the caller's context, so that whoever collects logs by context knows whose lines these are.
        reader = threading.Thread(
            target=copy_context().run, args=(drain,), name=f"{name}-log", daemon=True
        )
        reader.start()
        try:
            while child.poll() is None:
                time.sleep(tick_s)
                if on_tick is not None:
                    on_tick()
        finally:
            end_group(child)
            reader.join(timeout=_TERMINATION_GRACE_S)
            if child.stdout is not None:
                child.stdout.close()
    if child.returncode:
        how = (
            f"signal {signal.Signals(-child.returncode).name}"
            if child.returncode < 0
            else f"exit code {child.returncode}"
        )
        raise ChildError(
            f"{name} ended with {how}; the end of its log ({log_path}):\n" + "\n".join(tail)
        )


def end_group(child: subprocess.Popen[str]) -> None:
    """End a child and everything it started: SIGTERM, a grace time, then SIGKILL to the whole group."""
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(timeout=_TERMINATION_GRACE_S)
        except subprocess.TimeoutExpired:
            log.warning("process group %d did not end on SIGTERM, killing it", child.pid)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left in it
