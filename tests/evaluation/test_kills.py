"""Killed at random moments, and run again. Oracle: an evaluation that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation.test_run import NAMES, classification_set, labelled
from made.kills import KILLS
from towers.tiny import tiny_towers, train_a_little

from neuclip.journey import sweep
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.towers.folder import save_towers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MODELS, SETS = 2, max(4, KILLS)

PROGRAM = """
import sys
from neuclip.evaluation.models import evaluate_models
from neuclip.foundation.progress import silent
from neuclip.journey import sweep
root, models, sets = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
sweep(root)
evaluate_models(models, sets, root=root, batch_size=8, progress=silent)
"""


def begin(root, models, sets):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", PROGRAM, str(root), ",".join(models), ",".join(sets)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def committed(root):
    """Scores that are there -> when they were made."""
    parts = root / "evaluate" / PARTS
    there = [str(path) for path in parts.iterdir()] if parts.exists() else []
    return {uri: read_manifest(uri).started_at for uri in there if is_committed(uri)}


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / "evaluate").rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def test_no_finished_score_is_made_twice(tmp_path):
    sets = [
        classification_set(
            tmp_path,
            [
                part
                for n, colour in enumerate(NAMES * 2)
                for part in labelled(colour, 50 * number + n)
            ],
            name=f"wds_colours{number}_test",
        )
        for number in range(SETS)
    ]
    models = [str(tmp_path / name) for name in ("raw", "trained")]
    save_towers(tiny_towers(), Path(models[0]))
    save_towers(train_a_little(tiny_towers()), Path(models[1]))
    draws, kills, was = random.Random(7), 0, {}
    lake = tmp_path / "lake"
    for _ in range(KILLS):
        child = begin(lake, models, sets)
        while child.poll() is None and len(committed(lake)) <= len(was):
            time.sleep(0.005)
        time.sleep(draws.uniform(0, 0.05))
        kills += child.poll() is None
        os.killpg(child.pid, signal.SIGKILL) if child.poll() is None else None
        child.wait()
        now = committed(lake)
        assert was.items() <= now.items()  # what was done stays, and was not done anew
        was = now
    assert begin(lake, models, sets).wait() == 0
    assert kills >= KILLS - 2
    found = committed(lake)
    assert was.items() <= found.items()
    assert len(found) == MODELS * SETS
    assert begin(tmp_path / "calm", models, sets).wait() == 0
    assert contents(lake) == contents(tmp_path / "calm")
    sweep(str(lake))  # as the next run would
    assert not [path for name in (".scratch", ".leases") for path in (lake / name).rglob("*")]
