"""Oracle: the process table."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from neuclip.foundation.children import run_child
from neuclip.foundation.errors import ChildError


def run(code, tmp_path, **options):
    run_child(
        [sys.executable, "-c", code],
        name="child",
        log_path=tmp_path / "log",
        tick_s=0.05,
        **options,
    )


def gone(pid, within_s=10):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print(child.pid, flush=True)
time.sleep(100)
"""


def test_lines_arrive_and_are_logged(tmp_path):
    lines = []
    run("print('one'); print('two')", tmp_path, on_line=lines.append)
    assert lines == ["one", "two"]
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_failure_shows_the_end_of_the_log(tmp_path):
    with pytest.raises(ChildError, match=r"child ended with exit code 3; .*\nwhy it failed"):
        run("import sys; print('why it failed'); sys.exit(3)", tmp_path)
    with pytest.raises(ChildError, match="child ended with signal SIGKILL"):
        run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path)


def test_a_watcher_that_raises_ends_the_whole_group(tmp_path):
    pids = []

    def tick():
        if pids:
            raise TimeoutError("enough")

    with pytest.raises(TimeoutError):
        run(GRANDCHILD, tmp_path, on_line=lambda line: pids.append(int(line)), on_tick=tick)
    assert gone(pids[0])


def test_a_killed_parent_takes_its_child_along(tmp_path):
    parent_code = f"""
import sys
from pathlib import Path
from neuclip.foundation.children import run_child
code = '''
from neuclip.foundation.children import die_with_parent
die_with_parent()
import os, time
print(os.getpid(), flush=True)
time.sleep(100)
'''
run_child([sys.executable, "-c", code], name="child", log_path=Path({str(tmp_path / "log")!r}),
          on_line=lambda line: print(line, flush=True))
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(pid)
