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
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path

from neuclip.foundation.errors import ChildError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_TERMINATION_GRACE_S = 10.0
_TAIL_LINES = 12
END, QUIT = "end\n", "quit\n"
"""What a controlled program is told on its input: to save and end, or to end at once. A closed input means END."""
_QUIT_S = 10.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux to signal this process when its parent ends, even by SIGKILL; call first thing in a child."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


class Child:
    """A program that runs in its own process group, its output going to a log file."""

    def __init__(self, process: subprocess.Popen[str], *, name: str, log_path: Path) -> None:
        self.name, self._process, self._log_path = name, process, log_path
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.poll() is None

    def tell(self, word: str) -> None:
        """Write a word, END or QUIT, to a controlled program."""
        if self._process.stdin is not None:
            with suppress(OSError, ValueError):  # it has ended, or its input is closed
                self._process.stdin.write(word)
                self._process.stdin.flush()

    def check(self) -> None:
        """Do nothing unless it has failed.

        Raises: ChildError: with the end of the log, if it ended and its exit code is not 0.
        """
        code = self._process.poll()
        if code:
            raise ChildError(
                f"{self.name} ended with {describe_exit(code)}; the end of its log ({self._log_path}):\n"
                + "\n".join(self._tail)
            )

    def drain(self, on_line: Callable[[str], None] | None) -> None:
        """Copy its output to the log until nobody holds the other end any more."""
        output = self._process.stdout
        assert output is not None
        with output, self._log_path.open("a", encoding="utf-8") as log_file:
            for line in output:
                log_file.write(line)
                log_file.flush()
                self._tail.append(line.rstrip())
                if on_line is not None:
                    on_line(line.rstrip())

    def end(self, *, control_s: float) -> None:
        """End it and everything it started, waiting `control_s` seconds for it to do so itself.

        An exception meanwhile, a second interrupt, ends it at once.
        """
        try:
            if control_s:
                self.tell(END)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(control_s)
            self._close_input()
            end_group(self._process)
        except BaseException:
            self.tell(QUIT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_QUIT_S if control_s else 0)
            self._close_input()
            signal_group(self.pid, signal.SIGKILL)
            self._process.wait()
            raise

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()


@contextmanager
def running(
    command: Sequence[str],
    *,
    name: str,
    log_path: Path,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    control: str | None = None,
    control_s: float = 0.0,
) -> Generator[Child]:
    """Start a program and end it on every way out of the block.

    Args:
        on_line: is called with each line of output, in a thread of its own.
        control: text for the program's input, which stays open as long as the block lasts; None is no input.
        control_s: seconds that the program gets to end itself after it read END there; 0 for one that only
            knows that its input is closed.
    """
    process = subprocess.Popen(  # noqa: S603  # a list of words, no shell
        list(command),
        stdin=subprocess.DEVNULL if control is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    child = Child(process, name=name, log_path=log_path)
    # In the caller's context, so that whoever collects logs by context knows whose lines these are.
    reader = threading.Thread(
        target=copy_context().run, args=(child.drain, on_line), name=f"{name}-log", daemon=True
    )
    reader.start()
    try:
        if process.stdin is not None and control is not None:
            with suppress(BrokenPipeError):  # it has ended already, which its exit code tells
                process.stdin.write(control)
                process.stdin.flush()
        yield child
    finally:
        child.end(control_s=control_s)
        reader.join(timeout=_TERMINATION_GRACE_S)


def run_child(
    command: Sequence[str],
    *,
    name: str,
    log_path: Path,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    on_start: Callable[[Child], None] | None = None,
    on_tick: Callable[[], None] | None = None,
    tick_s: float = 1.0,
) -> None:
    """Run a program in its own process group until it ends, its output going to a log file.

    Args:
        on_line: is called with each line of output, in a thread of its own.
        on_start: is called with the child once it runs.
        on_tick: is called every `tick_s` seconds; an exception from it ends the child and is raised.
    Raises: ChildError: with the end of the log, if the exit code is not 0.
    """
    with running(
        command, name=name, log_path=log_path, environment=environment, on_line=on_line
    ) as child:
        if on_start is not None:
            on_start(child)
        while child.is_running:
            time.sleep(tick_s)
            if on_tick is not None:
                on_tick()
    child.check()


def largest_member(groups: Sequence[int]) -> tuple[int, float]:
    """Return the process of these groups that holds most memory, and its resident MiB; (0, 0.0) if there is none."""
    largest = (0, 0.0)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(state[2]) in groups:
                resident_mib = int(state[21]) * _PAGE_BYTES / 2**20
                largest = max(largest, (int(folder.name), resident_mib), key=lambda found: found[1])
    return largest


def describe_exit(code: int) -> str:
    """Name an exit code; 128 and more is a signal that ended what the program itself ran."""
    number = -code if code < 0 else code - 128
    named = number in set(signal.Signals)
    return f"signal {signal.Signals(number).name}" if named else f"exit code {code}"


def end_group(child: subprocess.Popen[str]) -> None:
    """End a child and everything it started: SIGTERM, a grace time, then SIGKILL to the whole group."""
    if child.poll() is None:
        signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(timeout=_TERMINATION_GRACE_S)
        except subprocess.TimeoutExpired:
            log.warning("process group %d did not end on SIGTERM, killing it", child.pid)
    signal_group(child.pid, signal.SIGKILL)
    child.wait()


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if anybody is left in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return
