"""Start a run's ranks where the recipe says, and start them again when they die."""

import logging
import time
from dataclasses import dataclass, replace

from neuclip.foundation.errors import (
    BudgetError,
    ChildError,
    NeuclipError,
    StoppedError,
    is_transient,
)
from neuclip.launching.agents import launch_agents
from neuclip.launching.config import LaunchConfig
from neuclip.launching.kubernetes import launch_on_kubernetes
from neuclip.launching.program import Heard, Launcher, Program
from neuclip.launching.slurm import launch_on_slurm

log = logging.getLogger(__name__)

_LOOK_FOR_ERRORS_S = 5.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0


@dataclass
class Restarts:
    """How often the ranks were started again, of how often they may be."""

    allowed: int
    count: int = 0

    @property
    def left(self) -> int:
        """How often they may be started again from now on."""
        return max(0, self.allowed - self.count)

    def add(self, cause: str) -> None:
        """Count one, and say why."""
        self.count += 1
        log.warning("restart %d of %d: %s", self.count, self.allowed, cause)


def launch(config: LaunchConfig, program: Program, restarts: Restarts) -> None:
    """Run a program on all ranks to its end.

    Ranks that died are started again by torchrun where it still lives, else by a new attempt, `allowed` times
    in all. What a rank itself has given up with is not tried again, unless it may pass by itself; nor are
    ranks that never began, since what kept them will keep them again.

    Raises: ChildError: if the ranks died too often. The error that a rank wrote down.
    """
    has_begun, fruitless = False, 0
    while True:
        attempt = _Attempt(config, program, restarts)
        error = attempt.run()
        if error is None:
            return
        has_begun = has_begun or attempt.heard.begun > 0
        fruitless = 0 if attempt.heard.begun else fruitless + 1
        if not (has_begun and restarts.left and _may_pass(config, error)):
            raise error
        restarts.add(str(error))
        # Soon after ranks that were at work; a machine that is itself starting anew needs minutes.
        time.sleep(min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 8**fruitless))


class _Attempt:
    """One start of all machines."""

    def __init__(self, config: LaunchConfig, program: Program, restarts: Restarts) -> None:
        self.config, self.program, self.restarts = config, program, restarts
        self.heard = Heard()
        self._came: dict[str, str] = {}
        """Machines that came before one failed: others may come while all are being ended."""
        self._said: NeuclipError | None = None
        self._looked_at = time.monotonic()
        program.take_error()  # what an earlier attempt left

    def run(self) -> NeuclipError | None:
        """Wait for the end; return why it was not the program's."""
        try:
            _launcher(self.config)(
                self.config,
                replace(self.program, on_line=self._on_line),
                max_restarts=self.restarts.left,
                on_tick=self._on_tick,
            )
        except ChildError as failure:
            return self._last_words() or self._explained(failure)
        except BaseException as error:
            said = self._last_words()
            if isinstance(said, StoppedError) and not isinstance(error, Exception):
                error.add_note(str(said))  # told to end, the ranks have said what they saved
            raise
        return self._last_words()

    def _on_line(self, line: str) -> None:
        begun = self.heard.begun
        if not self.heard.take(line):
            self.program.on_line(line)
        elif self.heard.begun > max(begun, 1):
            self.restarts.add(self.heard.cause or f"a rank died, see {self.program.log_path}")

    def _on_tick(self) -> None:
        """End all ranks as soon as one has given up for good, before torchrun starts them again."""
        self._came = dict(self.heard.came)
        if time.monotonic() - self._looked_at < _LOOK_FOR_ERRORS_S:
            return
        self._looked_at = time.monotonic()
        said = self._last_words()
        if said is not None and not (is_transient(said) or isinstance(said, StoppedError)):
            raise said

    def _last_words(self) -> NeuclipError | None:
        self._said = self.program.take_error() or self._said
        return self._said

    def _explained(self, failure: ChildError) -> ChildError:
        machines, heard = self.config.machines, self.heard
        if machines == 1 or heard.begun:
            return failure
        came = ", ".join(f"{name} ({address})" for name, address in self._came.items())
        return ChildError(
            f"the ranks of {machines} machines did not find each other at {heard.endpoint or 'any place'}; came: "
            f"{came or 'none'}. Check that a program starts on every machine, that all of them reach this address "
            f"and port (firewall, VPN, name resolution), and that it is the first machine's. {failure}"
        )


def _launcher(config: LaunchConfig) -> Launcher:
    if config.slurm:
        return launch_on_slurm
    if config.kubernetes:
        return launch_on_kubernetes
    return launch_agents


def _may_pass(config: LaunchConfig, error: NeuclipError) -> bool:
    """Tell whether a new attempt makes sense; a cluster stops ranks to let others in, a person to end them."""
    if isinstance(error, StoppedError):
        on_a_cluster = config.slurm is not None or config.kubernetes is not None
        return on_a_cluster and not isinstance(error, BudgetError)
    return isinstance(error, ChildError) or is_transient(error)
