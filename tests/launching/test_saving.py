"""Ranks that are told to end may save first. Oracle: a program that needs its helper to live until it has saved."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from launching.programs import BEGIN, is_gone, wait_until

from neuclip.foundation.children import END, QUIT
from neuclip.launching.node import LaunchOptions, node_options

SAVING = BEGIN + (
    "import os, signal, subprocess, sys, time\n"
    "helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
    "def save(*_):\n"
    "    time.sleep(0.5)\n"
    "    print('lost' if helper.poll() is not None else 'saved', flush=True)\n"
    "    os._exit(0)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "print('pids', os.getpid(), helper.pid, flush=True)\n"
    "time.sleep(300)\n"
)
HANGING = SAVING.replace("time.sleep(0.5)", "time.sleep(300)")


class Node:
    """A controlled node program, its rank at work."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "neuclip.launching.node", "--control"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        options = node_options(program=["-c", code], processes=1, max_restarts=0)
        self.tell(LaunchOptions(options=options, environment={}).model_dump_json() + "\n")
        while not (line := self.process.stdout.readline()).startswith("pids"):
            assert line, "it ended"
        self.pids = [int(word) for word in line.split()[1:]]

    def tell(self, word: str) -> None:
        self.process.stdin.write(word)
        self.process.stdin.flush()

    def rest(self) -> str:
        """Wait for the end; return what the rank said."""
        said = self.process.stdout.read().strip()
        self.process.wait(20)
        self.process.stdout.close()
        self.process.stdin.close()
        assert wait_until(lambda: all(map(is_gone, self.pids)), seconds=20)
        return said


def send(number):
    return lambda node: node.process.send_signal(number)


def send_all(number):
    """What `kill -- -GROUP` does to the node, and a service manager to all but the helper, which is deaf to it."""

    def tell(node):
        os.killpg(node.process.pid, number)
        os.kill(node.pids[0], signal.SIGTERM)

    return tell


def twice(number):
    def tell(node):
        node.process.send_signal(number)
        time.sleep(0.2)
        node.process.send_signal(number)

    return tell


WISHES = {
    "word": lambda node: node.tell(END),
    "two words": lambda node: (node.tell(END), node.tell(END)),
    "closed control line": lambda node: node.process.stdin.close(),
    "word, then closed": lambda node: (node.tell(END), node.process.stdin.close()),
    "SIGTERM": send(signal.SIGTERM),
    "SIGINT": send(signal.SIGINT),
    "SIGHUP": send(signal.SIGHUP),
    "SIGTERM twice": twice(signal.SIGTERM),
    "SIGINT twice": twice(signal.SIGINT),
    "SIGTERM to all": send_all(signal.SIGTERM),
    "SIGHUP to all": send_all(signal.SIGHUP),
    "SIGTERM to the rank": lambda node: os.kill(node.pids[0], signal.SIGTERM),
}


@pytest.mark.parametrize("wish", list(WISHES))
def test_only_the_rank_is_told_and_it_saves(wish):
    node = Node(SAVING)
    WISHES[wish](node)
    assert node.rest() == "saved"
    assert node.process.returncode == 0


@pytest.mark.parametrize("before", ["", END])
def test_quit_ends_a_rank_at_once(before):
    node = Node(HANGING)
    if before:
        node.tell(before)
        time.sleep(0.3)
    begin = time.monotonic()
    node.tell(QUIT)
    assert node.rest() == ""
    assert time.monotonic() - begin < 10


def test_an_interrupted_launcher_lets_its_rank_save(told):
    def interrupt():
        wait_until(told.pids)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        told.launch(SAVING)
    assert told.lines[-1] == "saved"


def test_a_second_interrupt_ends_a_rank_that_does_not_get_done(told):
    def interrupt():
        wait_until(told.pids)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        told.launch(HANGING)
    assert time.monotonic() - begin < 60
    assert all(is_gone(pid) for pid in told.pids())


def test_a_rank_dies_with_a_node_program_that_is_killed():
    node = Node(SAVING)
    rank = psutil.Process(node.pids[0])
    node.process.kill()
    assert wait_until(lambda: is_gone(rank.pid), seconds=20)
    os.kill(node.pids[1], signal.SIGKILL)
    assert "saved" not in node.rest()
