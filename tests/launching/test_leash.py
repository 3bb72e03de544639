"""Nothing is left. Oracle: the process table; what is started hides from its group and does not heed SIGTERM."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from launching.programs import BEGIN, ENDLESS, is_gone, wait_until

PARENT = """
import sys
from pathlib import Path
from launching.programs import ENDLESS, Told
told = Told(Path(sys.argv[1]))
told.lines = type("Lines", (), {"append": lambda self, line: print(line, flush=True)})()
told.launch(ENDLESS)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_launchers_own_end_is_the_end_of_all(tmp_path, number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stderr=subprocess.DEVNULL,
    )
    line = parent.stdout.readline()
    pids = [int(word) for word in line.split()[1:]]
    below = [process.pid for process in psutil.Process(parent.pid).children(recursive=True)]
    assert set(pids) <= set(below)
    assert len(below) == 3  # the node program too
    parent.send_signal(number)
    parent.wait(30)
    parent.stdout.close()
    assert wait_until(lambda: all(is_gone(pid) for pid in below))


def test_a_second_signal_does_not_break_into_the_end():
    """What srun does: it hands on a signal that its tasks have had already."""
    words = ["--processes=1", "--", "-c", ENDLESS]
    node = subprocess.Popen(
        [sys.executable, "-m", "neuclip.launching.node", *words], stdout=subprocess.PIPE, text=True
    )
    pids = []
    while len(pids) < 2:
        pids = [int(word) for word in node.stdout.readline().split()[1:]]
    while node.poll() is None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            node.send_signal(number)
    node.stdout.close()
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def test_an_exception_in_the_launcher_is_the_end_of_all(told):
    def interrupt():
        wait_until(told.pids)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        told.launch(ENDLESS)
    assert len(told.pids()) == 2
    assert all(is_gone(pid) for pid in told.pids())


def test_what_a_program_leaves_behind_is_ended_with_it(told):
    told.launch(ENDLESS.replace("time.sleep(300)\n", ""))
    assert len(told.pids()) == 2
    assert all(is_gone(pid) for pid in told.pids())


@pytest.mark.slow
def test_a_node_program_that_is_killed_takes_its_rank_along(told):
    def kill():
        wait_until(told.pids)
        psutil.Process(told.pids()[0]).parent().kill()

    threading.Thread(target=kill).start()
    with pytest.raises(Exception, match="SIGKILL"):
        told.launch(ENDLESS, max_restarts=0)
    rank, hidden = told.pids()
    assert wait_until(lambda: is_gone(rank))
    os.kill(hidden, signal.SIGKILL)  # nobody is left who knows of it


def test_sigusr1_reaches_the_rank_and_nobody_else(told):
    code = BEGIN + (
        "import os, signal, subprocess, sys, time\n"
        "helper = subprocess.Popen(['sleep', '300'])\n"
        "def stop(*_): print('asked', helper.poll(), flush=True); helper.kill(); os._exit(0)\n"
        "signal.signal(signal.SIGUSR1, stop)\n"
        "print('pids', os.getpid(), flush=True)\n"
        "time.sleep(300)\n"
    )

    def ask():
        wait_until(told.pids)
        psutil.Process(told.pids()[0]).parent().send_signal(signal.SIGUSR1)

    threading.Thread(target=ask).start()
    assert told.launch(code) == 0
    assert told.lines[-1] == "asked None"
