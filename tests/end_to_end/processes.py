"""The processes of a run: all of them, wherever they hang, and of which kind each is."""

import uuid
from pathlib import Path

import psutil

MARK = "NEUCLIP_TEST_RUN"


def new_mark() -> str:
    return uuid.uuid4().hex


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that inherited a mark in their environment."""
    needle = f"{MARK}={mark}".encode()
    found: list[psutil.Process] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (folder / "environ").read_bytes().split(b"\0"):
                process = psutil.Process(int(folder.name))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


_KINDS = (
    ("img2dataset_child", "img2dataset"),
    ("egress", "guard"),
    ("training.worker", "rank"),
    ("launching.node", "node program"),
    ("torch.distributed", "agent"),
    ("launching", "node program"),
)


def kind_of(process: psutil.Process, top: int) -> str:
    """Name what a process is: by its words, else by what started it."""
    if process.pid == top:
        return "command line"
    own = _by_words(process)
    parent = process.parent()
    above = None if parent is None else _by_words(parent)
    if "resource_tracker" in " ".join(process.cmdline()):
        return f"tracker of {above or 'command line'}"
    if own is not None and own != above:
        return own
    return f"worker of {above or 'command line'}"


def _by_words(process: psutil.Process) -> str | None:
    words = " ".join(process.cmdline())
    return next((kind for part, kind in _KINDS if part in words), None)
