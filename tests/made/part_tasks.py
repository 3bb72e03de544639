"""Work of parts for tests, in a module that every worker can import."""

import os
import signal
import time
from pathlib import Path

from neuclip.foundation.errors import DataError, NumericsError
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome


def write(text, workspace, progress):
    """Write a file; report twice."""
    progress("made", done=1, total=2, note="half")
    (workspace.output / "text").write_text(text)
    return Outcome(make_ledger(1, 1, {}), {"process": os.getpid()})


def refuse(text, workspace, progress):
    raise DataError(text)


def overflow(workspace, progress):
    raise NumericsError("weight 7 is not finite")


def divide(workspace, progress):
    return 1 / 0


def write_once_there_is(path, text, workspace, progress):
    """Write a file if another is there; else kill the process that does it, as a machine without memory would."""
    if not Path(path).exists():
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return write(text, workspace, progress)
