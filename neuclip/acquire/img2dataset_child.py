"""The child process that runs img2dataset, unmodified: `python -m neuclip.acquire.img2dataset_child job.json`.

img2dataset starts a logger and workers that outlive it when it is ended by a signal, so this process ends
its whole group: on SIGTERM, and when the process that started it is gone.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from neuclip.foundation.children import die_with_parent


def main(job_path: Path) -> None:
    """Download what a job describes: the arguments of img2dataset's `download`, as JSON."""
    signal.signal(signal.SIGTERM, _end_group)
    die_with_parent(signal.SIGTERM)
    from img2dataset import download  # type: ignore[import-untyped]  # takes seconds, and must not come before the handler

    download(**json.loads(job_path.read_text(encoding="utf-8")))


def _end_group(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
