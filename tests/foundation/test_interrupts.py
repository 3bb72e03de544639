"""What a program does that is told to end. Oracle: a terminal, and the exit code that the system reports."""

import os
import pty
import signal
import sys
import time

import pytest
from launching.programs import wait_until

PROGRAM = """
import os, signal, sys, time
from neuclip.foundation.interrupts import Interrupted, Interrupts
for name in sys.argv[1].split(","):
    if name:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
interrupts = Interrupts()
interrupts.heed()
interrupts.is_at_work = sys.argv[2] == "at work"
journal = open(sys.argv[3], "w", buffering=1)
try:
    try:
        journal.write("ready\\n")
        time.sleep(60)
    finally:
        journal.write("saves\\n")
        for _ in range(20):
            time.sleep(0.1)
            print("still saving", flush=True)
        journal.write("saved\\n")
except Interrupted as error:
    sys.exit(128 + error.number)
"""


class Program:
    def __init__(self, folder, *, ignored="", state="at work"):
        self.journal = folder / "journal"
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            words = [sys.executable, "-c", PROGRAM, ignored, state, str(self.journal)]
            os.execv(words[0], words)
        assert self.wait_for("ready")

    def wait_for(self, line):
        return wait_until(lambda: self.journal.exists() and line in self.journal.read_text())

    def press_ctrl_c(self):
        os.write(self.terminal, b"\x03")

    def end(self):
        """Return exit code, what it wrote on the terminal, and what it did."""
        said = b""
        while self.terminal >= 0:
            try:
                said += os.read(self.terminal, 4096)
            except OSError:
                os.close(self.terminal)
                self.terminal = -1
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, said.decode(), self.journal.read_text().split()

    def hang_up(self):
        os.close(self.terminal)
        self.terminal = -1


def told(number):
    return lambda program: os.kill(program.pid, number)


def group_told(number):
    return lambda program: os.killpg(program.pid, number)


@pytest.mark.parametrize(
    ("tell", "code"),
    [
        (Program.press_ctrl_c, 130),
        (told(signal.SIGINT), 130),
        (told(signal.SIGTERM), 143),
        (told(signal.SIGHUP), 129),
        (group_told(signal.SIGTERM), 143),
        (Program.hang_up, 129),
    ],
    ids=["Ctrl-C", "SIGINT", "SIGTERM", "SIGHUP", "group", "hangup"],
)
def test_the_first_signal_lets_it_save(tmp_path, tell, code):
    program = Program(tmp_path)
    tell(program)
    found, said, done = program.end()
    assert (found, done) == (code, ["ready", "saves", "saved"])
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Program.press_ctrl_c, Program.press_ctrl_c),
        (told(signal.SIGTERM), told(signal.SIGTERM)),
        (Program.press_ctrl_c, told(signal.SIGTERM)),
        (told(signal.SIGHUP), told(signal.SIGTERM)),
    ],
    ids=["Ctrl-C twice", "SIGTERM twice", "Ctrl-C, SIGTERM", "SIGHUP, SIGTERM"],
)
def test_the_second_one_ends_at_once(tmp_path, first, second):
    program = Program(tmp_path)
    first(program)
    assert program.wait_for("saves")
    time.sleep(0.4)
    second(program)
    _, said, done = program.end()
    assert done == ["ready", "saves"]
    assert "Traceback" not in said


@pytest.mark.parametrize("again", [told(signal.SIGHUP), Program.hang_up], ids=["SIGHUP", "hangup"])
def test_a_terminal_that_goes_away_meanwhile_ends_no_save(tmp_path, again):
    program = Program(tmp_path)
    told(signal.SIGTERM)(program)
    assert program.wait_for("saves")
    time.sleep(0.4)
    again(program)
    assert program.end()[2] == ["ready", "saves", "saved"]


def test_what_comes_twice_in_one_moment_is_one_wish(tmp_path):
    program = Program(tmp_path)
    for _ in range(2):
        told(signal.SIGTERM)(program)
    assert program.end()[2] == ["ready", "saves", "saved"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_the_starter_ignores_stays_ignored(tmp_path, name):
    program = Program(tmp_path, ignored=name)
    told(getattr(signal, name))(program)
    time.sleep(0.5)
    assert program.journal.read_text().split() == ["ready"]
    told(signal.SIGTERM)(program)
    assert program.end()[0] == 143


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_before_its_work_it_ends_with_one_line(tmp_path, number, code):
    program = Program(tmp_path, state="starts")
    told(number)(program)
    found, said, done = program.end()
    assert (found, done) == (code, ["ready"])
    expected = (
        [] if number == signal.SIGHUP else [f"stopped by {number.name} before anything was begun"]
    )
    assert said.split("\r\n")[1:-1] == expected or said == ""
