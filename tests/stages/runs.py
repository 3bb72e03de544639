"""Processes that make a stage: each says when it begins to work, and works until its line of input."""

import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuclip.storage.files import list_files
from neuclip.storage.uris import join

RUN = """
import logging, sys, time
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage
root, mode = sys.argv[1:]
logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
def work(workspace):
    (workspace.output / "file").write_text(mode)
    (workspace.scratch / "waste").write_text("x")
    print("works", workspace.output.parent, flush=True)
    sys.stdin.readline()
    return Outcome(make_ledger(1, 1, {}))
identity = StageIdentity("curate", 1, "k", {}, {}, root, part="part" in mode)
ran = commit_stage(identity, work, keep_unfinished="keep" in mode, force="force" in mode)[1]
print("made" if ran else "found", flush=True)
"""


@contextmanager
def run(
    root: str, mode: str = "", *, within: Sequence[str] = ()
) -> Generator[subprocess.Popen[str]]:
    """Start one; kill it on the way out."""
    child = subprocess.Popen(
        [*within, sys.executable, "-c", RUN, root, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    """Wait for its next line."""
    assert child.stdout is not None
    return child.stdout.readline().rstrip("\n")


def scratch_of(child: subprocess.Popen[str]) -> Path:
    """Wait until it works; return its scratch folder."""
    words = line(child).split()
    assert words[:1] == ["works"], child.communicate()[1]
    return Path(words[1])


def told(child: subprocess.Popen[str]) -> str:
    """Wait for its next line of log."""
    assert child.stderr is not None
    return child.stderr.readline().rstrip("\n")


def let_end(child: subprocess.Popen[str]) -> str:
    """Let it finish its work; return what it says then."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return line(child)


def leases(root: str) -> list[str]:
    return list(list_files(join(root, ".leases")))
