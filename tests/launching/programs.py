"""Small programs in the place of the trainer, and what the tests ask about processes."""

import time
from pathlib import Path

import psutil

from neuclip.launching.config import LaunchConfig
from neuclip.launching.launch import Restarts, launch
from neuclip.launching.program import Program

BEGIN = "from neuclip.launching.program import say_begun; say_begun(); "

ENDLESS = BEGIN + (
    "import os, subprocess, sys, time\n"
    "code = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)'\n"
    "child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
    "print('pids', os.getpid(), child.pid, flush=True)\n"
    "time.sleep(300)\n"
)
"""Starts a process that hides in a session of its own and does not heed SIGTERM."""


class Told:
    """What a launcher told; `errors` are what ranks have written down, in order."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lines, self.errors = folder, [], []

    def program(self, code: str) -> Program:
        return Program(
            name="abc1",
            words=["-c", code],
            log_path=self.folder / "train.log",
            on_line=self.lines.append,
            take_error=lambda: self.errors.pop(0) if self.errors else None,
        )

    def launch(self, code: str, **config) -> int:
        """Launch; return the restarts."""
        launched = LaunchConfig.model_validate(config)
        restarts = Restarts(allowed=launched.max_restarts)
        launch(launched, self.program(code), restarts)
        return restarts.count

    def pids(self) -> list[int]:
        return [
            int(word)
            for line in self.lines
            if line.startswith("pids ")
            for word in line.split()[1:]
        ]


def times_begun(folder: Path) -> str:
    """Return code that counts its starts in `n`."""
    path = str(folder / "starts")
    return BEGIN + (
        f"p = {path!r}; open(p, 'a').write('x'); n = len(open(p).read()); import os, sys, signal, time\n"
    )


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(is_so, *, seconds: float = 90) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.05)
    return False
