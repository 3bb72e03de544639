"""The guard's process: `python -m neuclip.egress.child`, its job on standard input, whose end is its own end."""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from neuclip.egress.config import EgressConfig
from neuclip.egress.server import serve
from neuclip.foundation.children import die_with_parent


def main() -> None:
    """Serve until standard input is closed or the parent is gone."""
    die_with_parent(signal.SIGKILL)
    logging.basicConfig(level=logging.WARNING)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_control_line, daemon=True).start()
    config = EgressConfig.model_validate(job["config"])
    asyncio.run(serve(config, Path(job["journal"]), job["token"]))


def _end_with_control_line() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
