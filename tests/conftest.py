"""Fixtures of several rooms."""

import signal
import subprocess
from collections.abc import Iterator

import pytest
from made.demo_web import DemoWeb, demo_web


@pytest.fixture(autouse=True, scope="session")
def interrupts_are_heard():
    """A shell starts what runs in its background deaf to SIGINT, nohup to SIGHUP, and programs inherit that.

    What has a handler here is heard by them again.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def small_web(tmp_path_factory) -> Iterator[DemoWeb]:
    """300 pairs of the demo, served for as long as the tests run; nobody changes it."""
    with demo_web(tmp_path_factory.mktemp("demo") / "web") as web:
        yield web
