"""What a launcher is given, and what it hears from the machines."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from neuclip.foundation.errors import NeuclipError
from neuclip.launching.config import LaunchConfig
from neuclip.launching.node import CAME_MARK

BEGUN_MARK = "@begun"
_CAUSE = "exitcode"


@dataclass(frozen=True)
class Program:
    """What the ranks run.

    Args:
        name: of the run, lower case letters and digits; two runs with one name are never at work together.
        words: what follows the name of the Python program.
        log_path: where their output is appended to.
        on_line: is called with each line of it, in a thread of its own.
        take_error: returns, once, the error that a rank has written down, None if none has.
    """

    name: str
    words: list[str]
    log_path: Path
    on_line: Callable[[str], None]
    take_error: Callable[[], NeuclipError | None]


class Launcher(Protocol):
    """Starts the ranks on one kind of machines."""

    def __call__(
        self,
        config: LaunchConfig,
        program: Program,
        *,
        max_restarts: int,
        on_tick: Callable[[], None],
    ) -> None:
        """Start the ranks and wait until all have ended; on every way out nothing of them is left.

        Args:
            max_restarts: how often the machines themselves may start ranks again.
            on_tick: is called about every second; an exception from it ends the ranks and is raised.
        Raises: ChildError: if ranks or machines failed. StoppedError: if somebody else ended them.
        """
        ...


def say_begun() -> None:
    """Tell the launcher that the ranks have found each other; the main rank calls it each time it is started."""
    sys.stdout.write(f"{BEGUN_MARK}\n")
    sys.stdout.flush()


@dataclass
class Heard:
    """What the machines have said during one attempt: who came, how often the ranks began, why they ended."""

    begun: int = 0
    came: dict[str, str] = field(default_factory=dict[str, str])
    endpoint: str = ""
    cause: str = ""

    def take(self, line: str) -> bool:
        """Take a line of output; return whether it was for the launcher alone."""
        if line == BEGUN_MARK:
            self.begun += 1
        elif line.startswith(CAME_MARK):
            came = json.loads(line.removeprefix(CAME_MARK))
            self.came[came["label"]] = came["address"]
            self.endpoint = came["endpoint"]
        else:
            if _CAUSE in line:  # torchrun says why it starts ranks again
                self.cause = line.strip()
            return False
        return True
