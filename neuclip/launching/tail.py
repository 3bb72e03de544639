"""A log file that another machine writes, followed line by line."""

from collections import deque
from pathlib import Path

from neuclip.launching.program import Program

_SHOWN_LINES = 12


class Tail:
    """Hands on the lines that have been added since the last look; a line counts once it is whole."""

    def __init__(self, path: Path, program: Program) -> None:
        self._path, self._program = path, program
        self._at, self._half = 0, b""
        self._last: deque[str] = deque(maxlen=_SHOWN_LINES)

    def read(self) -> None:
        """Take what is new, copy it to the run's log and hand it on."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
        except FileNotFoundError:
            return  # the job has not begun
        self._at += len(new)
        *whole, self._half = (self._half + new).split(b"\n")
        lines = [line.decode(errors="replace").rstrip() for line in whole]
        with self._program.log_path.open("a", encoding="utf-8") as log_file:
            log_file.writelines(f"{line}\n" for line in lines)
        for line in lines:
            self._last.append(line)
            self._program.on_line(line)

    def describe(self) -> str:
        """Return the last lines, as the end of a message."""
        return f"the end of its log ({self._path}):\n" + "\n".join(self._last)
