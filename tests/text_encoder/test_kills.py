"""Killed at random moments, and run again. Oracle: the encoder called by hand, one part for each part of captions."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made.acquired import some_pairs
from made.kills import KILLS
from made.packed import gather
from made.text_encoders import llama
from text_encoder.test_run import check_features

from neuclip.journey import sweep
from neuclip.stages.manifest import PARTS, is_committed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PAIRS = max(600, 500 * KILLS)
"""A pair has two texts on average: 20 kills have 20,000."""
A_PARTITION = 250

PROGRAM = """
import sys
from pathlib import Path
from made.encoded import encode_texts, settings
from neuclip.journey import sweep
root, captions, folder = sys.argv[1:]
sweep(root)
encode_texts(Path(root), captions, settings(Path(folder)))
"""


def begin(root, captions, folder):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", PROGRAM, str(root), captions, str(folder)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def committed(root):
    parts = root / "text_encoder" / PARTS
    return [p.name for p in parts.iterdir() if is_committed(str(p))] if parts.exists() else []


def test_each_text_has_one_row_after_any_number_of_kills(tmp_path):
    folder = llama(tmp_path / "model")
    pairs = some_pairs(PAIRS)
    partitions = [pairs[n : n + A_PARTITION] for n in range(0, PAIRS, A_PARTITION)]
    captions = gather(tmp_path / "lake", partitions)[2]
    draws, kills, was = random.Random(5), 0, []
    for _ in range(KILLS):
        child = begin(tmp_path / "lake", captions, folder)
        before = len(committed(tmp_path / "lake"))
        while child.poll() is None and len(committed(tmp_path / "lake")) <= before:
            time.sleep(0.01)
        time.sleep(draws.uniform(0, 0.4))
        kills += child.poll() is None
        os.killpg(child.pid, signal.SIGKILL) if child.poll() is None else None
        child.wait()
        now = committed(tmp_path / "lake")
        assert set(was) <= set(now)  # what was done stays done
        was = now
    assert begin(tmp_path / "lake", captions, folder).wait() == 0
    assert kills >= KILLS - 1
    uri = str(tmp_path / "lake" / "text_encoder" / "encoded-key")
    check_features(uri, captions, folder)
    lake = tmp_path / "lake"
    sweep(str(lake))  # as the next run would
    assert not [path for name in (".scratch", ".leases") for path in (lake / name).rglob("*")]
