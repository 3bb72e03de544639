"""`neuclip run` as a person starts it: on a terminal of its own, on data that was made by hand."""

import os
import pty
import re
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
from launching.programs import is_gone, wait_until
from made.acquired import some_pairs
from query.journeys import do_stages, make_recipe
from training.runs import ARCHITECTURE, metrics

from neuclip.journey import identify

PROGRAM = [sys.executable, "-c", "from neuclip.cli.entry import main; main()"]
TRAIN = {
    "model": {"architecture": ARCHITECTURE},
    "objective": {"name": "openclip"},
    "global_batch": 8,
    "streams": 2,
    "epochs": 20,
    "warmup_steps": 3,
    "save_every_steps": 1000,
    "keep_best": 0,
    "log_every_steps": 1,
    "probe": None,
    "loader": {"workers": 1},
    "launch": {"max_restarts": 0},
}


class Journey:
    """A recipe whose stages above train are done."""

    def __init__(self, base: Path, **train) -> None:
        base.mkdir(parents=True, exist_ok=True)
        self.base = base
        recipe, _ = make_recipe(base, train=TRAIN | train)
        do_stages(recipe, {"kept": some_pairs(60)})
        self.path = base / "recipe.yaml"
        self.path.write_text(recipe.to_yaml())
        self.recipe = recipe

    @property
    def folder(self) -> Path:
        """Where training leaves its checkpoints."""
        return Path(identify(self.recipe)["train"].uri)

    def lines(self) -> list[dict]:
        return metrics(self.folder)

    def begin(self, *more: str) -> "Command":
        return Command(["run", str(self.path), "--only", "train", *more])

    def leftovers(self) -> list[Path]:
        return list((Path(self.recipe.root) / ".scratch").glob("*"))


class Command:
    """A command line on a terminal."""

    def __init__(self, words: list[str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(COLUMNS="300", OMP_NUM_THREADS="1", TERM="xterm")
            os.execv(PROGRAM[0], [*PROGRAM, *words])
        self._process = psutil.Process(self.pid)
        self._said = bytearray()
        self.code: int | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.all: dict[int, str] = {}

    @property
    def output(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._said.decode(errors="replace"))

    def last_line(self) -> str:
        return [line.strip() for line in self.output.splitlines() if line.strip()][-1]

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def hang_up(self) -> None:
        """Close the terminal."""
        os.close(self._terminal)
        self._terminal = -1

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def below(self) -> dict[int, str]:
        """Return pid -> command line of all that runs below it."""
        found = {}
        for process in self._process.children(recursive=True):
            try:
                found[process.pid] = " ".join(process.cmdline())
            except psutil.Error:
                continue
        self.all.update(found)
        return found

    def pids(self, words: str) -> list[int]:
        return sorted(pid for pid, line in self.below().items() if words in line)

    def wait(self, seconds: float = 120) -> int:
        """Wait for its end; return its exit code as a shell does, and see that nothing of it is left."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code
            elif time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"{seconds:g} s passed; it said:\n{self.output}")
            else:
                time.sleep(0.02)
        self._reader.join(5)
        assert wait_until(lambda: all(is_gone(pid) for pid in self.all), seconds=20), [
            line for pid, line in self.all.items() if not is_gone(pid)
        ]
        return self.code

    def _read(self) -> None:
        while True:
            try:
                new = os.read(self._terminal, 65536)
            except OSError:
                return
            if not new:
                return
            self._said += new
