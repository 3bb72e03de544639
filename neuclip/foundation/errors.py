"""The errors of neuclip.

NeuclipError                exit code 1
├── ConfigError             2  a recipe field, an override, an unknown name
├── DataError               2  an input that is missing, unreadable or contradicts itself
├── StorageError            1  reading or writing `root` failed
├── IntegrityError          1  a committed output is not what its manifest says; a ledger that does not balance
├── CheckpointError         1  a checkpoint that cannot be used
├── ShapeError              1  tensors that do not fit together
├── NumericsError           1  a loss or gradient that is not finite, or a spike
├── StoppedError            1  work that was asked to stop, and can go on from where it saved
│   └── BudgetError         1  work that has used up its budget
├── EndpointError           1  a model's server that stays out of reach
└── ChildError              1  a child process failed
TransientError              mixin: the same call may succeed later; only these are retried

A message says what was expected, what came, where, and what to do next.
"""

import difflib
from collections.abc import Iterable


class NeuclipError(Exception):
    """Base of all errors that neuclip raises on purpose."""

    exit_code = 1


class ConfigError(NeuclipError):
    """A recipe or an option is wrong."""

    exit_code = 2


class DataError(NeuclipError):
    """The user's data is missing, unreadable or contradicts itself."""

    exit_code = 2


class StorageError(NeuclipError):
    """Reading or writing storage failed."""


class IntegrityError(NeuclipError):
    """Something committed is not what its manifest says, or a ledger does not balance."""


class CheckpointError(NeuclipError):
    """A checkpoint is missing, broken or of another recipe."""


class ShapeError(NeuclipError):
    """Tensors do not fit together."""


class NumericsError(NeuclipError):
    """A loss or gradient is not finite, or far above what it was.

    Args:
        step: the update of training whose batch it is, from 0, where it is of one.
    """

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class StoppedError(NeuclipError):
    """Work was asked to stop by a signal or its budget; run again, it goes on from where it saved."""


class CollapseError(StoppedError):
    """A run has stopped, and saved, because its features tell samples no longer apart."""


class BudgetError(StoppedError):
    """Work has cost what the recipe allows; nothing starts it again by itself."""


class EndpointError(NeuclipError):
    """A model's server does not answer, or not as its protocol says."""


class ChildError(NeuclipError):
    """A child process failed."""


class TransientError(Exception):
    """Mixin: the same call may succeed later."""


class TransientStorageError(StorageError, TransientError):
    """Storage did not answer this time."""


def is_transient(error: BaseException) -> bool:
    """Tell whether a retry makes sense."""
    return isinstance(error, TransientError)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, as the end of a message; empty if none is near."""
    spelled = {text.casefold(): text for text in known}
    matches = difflib.get_close_matches(name.casefold(), list(spelled), n=1, cutoff=0.5)
    return f" Did you mean {spelled[matches[0]]!r}?" if matches else ""
