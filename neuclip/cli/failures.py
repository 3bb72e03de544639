"""How a command ends that cannot do what it was asked to: one message, an exit code, no traceback."""

import errno
import json
import logging
import signal
import sys
import tempfile
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from neuclip.cli.entry import INTERRUPTS
from neuclip.foundation.errors import NeuclipError
from neuclip.foundation.interrupts import Interrupted
from neuclip.foundation.os_errors import as_storage_error

_KEPT = "what is finished is kept; run the same command again to go on from there"
_UNEXPECTED = 1


@contextmanager
def explained(screen: Console, *, as_json: bool) -> Generator[None]:
    """Turn an error into one message on stderr and its exit code; with --json also into the one object on stdout.

    What nobody foresaw is a fault of neuclip: its traceback goes to a file, and to the screen under --verbose.
    """
    INTERRUPTS.is_at_work = True
    try:
        yield
    except NeuclipError as error:
        raise _told(screen, error, as_json=as_json) from error
    except KeyboardInterrupt as error:
        raise _interrupted(screen, error, as_json=as_json) from error
    except typer.Exit:
        raise
    except Exception as error:
        # What a library makes of an interrupt: DuckDB, for example, raises an error of its own.
        if INTERRUPTS.told_by is not None:
            interrupt = Interrupted(INTERRUPTS.told_by)
            raise _interrupted(screen, interrupt, as_json=as_json) from error
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # nobody reads on, as after `| head`: typer ends in silence
        found = as_storage_error(error, "stopped") or _unexpected(error)
        raise _told(screen, found, as_json=as_json) from error


def print_json(value: dict[str, Any]) -> None:
    """Print the one object of --json."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _told(screen: Console, error: NeuclipError, *, as_json: bool) -> typer.Exit:
    kind = type(error).__name__
    screen.print(f"{kind}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"error": {"kind": kind, "message": str(error)}})
    return typer.Exit(error.exit_code)


def _interrupted(screen: Console, error: KeyboardInterrupt, *, as_json: bool) -> typer.Exit:
    """Say what is kept; the exit code is 128 and the signal's number."""
    number = error.number if isinstance(error, Interrupted) else signal.SIGINT
    notes: list[str] = getattr(error, "__notes__", [_KEPT])
    message = f"stopped by {signal.Signals(number).name}: {'; '.join(notes)}"
    screen.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"error": {"kind": "Interrupted", "message": message}})
    return typer.Exit(128 + number)


class UnexpectedError(NeuclipError):
    """A fault of neuclip itself."""

    exit_code = _UNEXPECTED


def _unexpected(error: Exception) -> UnexpectedError:
    """Keep the traceback for a report; say where it is."""
    lines = "".join(traceback.format_exception(error))
    if logging.getLogger("neuclip").isEnabledFor(logging.INFO):
        sys.stderr.write(lines)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="neuclip-error-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(lines)
        said = f"please report it with {Path(file.name)}"
    except OSError:
        said = "please report it with what `--verbose` prints"
    return UnexpectedError(
        f"an error that neuclip does not know; what was committed is kept; {said}"
    )
