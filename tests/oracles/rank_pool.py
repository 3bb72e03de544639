"""Processes that play the ranks of a run, started once and shared by all tests.

A case is a function in a file, called on every rank under torchrun's environment variables; it
joins and leaves the process group itself. What it returns travels back pickled.
"""

import atexit
import functools
import importlib.util
import multiprocessing
import os
import pickle
import socket
import traceback
from pathlib import Path

import pytest

_MOST_S = 90


@functools.cache
def _load(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _serve(connection):
    import torch

    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    while True:
        environment, path, name, arguments = pickle.loads(connection.recv_bytes())
        os.environ.update(environment)
        try:
            answer = (True, getattr(_load(path), name)(*arguments))
        except Exception:  # noqa: BLE001  # the test that asked shows it
            answer = (False, traceback.format_exc())
        connection.send_bytes(pickle.dumps(answer))


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RankPool:
    """Runs a case on ranks 0 .. size - 1."""

    def __init__(self, capacity):
        self._capacity = capacity
        self._start()

    def _start(self):
        # A fork server imports torch once for all ranks.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch"])
        self._connections, self._processes = [], []
        for _ in range(self._capacity):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, size, path, name, *arguments):
        """Return what the case `name` of the file gave, in rank order."""
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        connections = self._connections[:size]
        for rank, connection in enumerate(connections):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            request = ({**shared, **own}, str(path), name, arguments)
            connection.send_bytes(pickle.dumps(request))
        answers = []
        for rank, connection in enumerate(connections):
            if not connection.poll(_MOST_S):
                self.close()  # a late answer would be taken for that to the next question
                self._start()
                pytest.fail(f"rank {rank} of {size} gave no answer to {name}")
            answers.append(pickle.loads(connection.recv_bytes()))
        failures = [text for is_done, text in answers if not is_done]
        if failures:
            pytest.fail("\n".join(failures))
        return [value for _, value in answers]

    def close(self):
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()


@functools.cache
def shared_pool():
    """The one pool of this test session."""
    pool = RankPool(4)
    atexit.register(pool.close)
    return pool
