"""Short calls of a cluster's own programs: sbatch, squeue, kubectl."""

import logging
import subprocess
import time
from collections.abc import Callable, Sequence

from neuclip.foundation.errors import ChildError, ConfigError

log = logging.getLogger(__name__)

_LONGEST_CALL_S = 120
_MOST_MISSED = 30
"""Questions in a row that a cluster may leave open, its controller being restarted for example."""


def call(words: Sequence[str], *, text: str | None = None) -> str:
    """Run a program and return what it prints.

    Args:
        text: its input.
    Raises: ConfigError: if there is no such program. ChildError: if it fails or does not end.
    """
    try:
        done = subprocess.run(  # noqa: S603  # a list of words, no shell
            list(words),
            input=text or "",
            capture_output=True,
            text=True,
            timeout=_LONGEST_CALL_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"{words[0]} is not installed here; run where it is, or choose another train.launch"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"{' '.join(words)} did not end within {_LONGEST_CALL_S} s") from error
    if done.returncode:
        raise ChildError(
            f"{' '.join(words)} ended with exit code {done.returncode}: {(done.stderr or done.stdout).strip()}"
        )
    return done.stdout


class Poll:
    """Asks for a state now and then, and bears that it is not always answered.

    Args:
        ask: returns the state; None or a ChildError is no answer.
    """

    def __init__(self, ask: Callable[[], str | None], *, every_s: float, what: str) -> None:
        self._ask, self._every_s, self._what = ask, every_s, what
        self._asked_at, self._missed, self.state = float("-inf"), 0, ""

    def look(self) -> str:
        """Return the last known state, asking anew if it is time.

        Raises: ChildError: if nothing was answered for too long.
        """
        if time.monotonic() - self._asked_at < self._every_s:
            return self.state
        self._asked_at = time.monotonic()
        why = "it is not there"
        try:
            state = self._ask()
        except ChildError as error:
            state, why = None, str(error)
        if state is not None:
            self._missed, self.state = 0, state
            return state
        self._missed += 1
        log.warning("no state of %s: %s", self._what, why)
        if self._missed >= _MOST_MISSED:
            raise ChildError(f"{self._what} has vanished, {self._missed} questions in a row: {why}")
        return self.state
