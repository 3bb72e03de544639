"""More partitions than a process may open files, through every stage that reads many of them."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuclip.storage.arrays import by_part
from tests.journey.many_partitions import go_through


def check(found: dict, count: int) -> None:
    assert found == {
        "acquire": count - 1,  # one was taken down
        "curate": found["caption"],
        "caption": found["shard"],
        "shard": found["curate"],
        "rows": [count, count],
        "explained": count - 1,
        "taken_down": 1,
        "clustered": 2 * count,
        "adopted": count,
    }
    assert 0.8 * count < found["shard"] <= 0.9 * count + 1


@pytest.fixture
def few_files():
    """Let this process open some forty files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE,
        (max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 40, hard),
    )
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_no_stage_keeps_a_file_open_for_each_partition(tmp_path, few_files):
    check(go_through(60, tmp_path), 60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_partitions_and_256_files(tmp_path):
    """Of 3,000 it takes 20 minutes: NEUCLIP_PARTITIONS=3000."""
    count = os.environ.get("NEUCLIP_PARTITIONS", "400")
    done = subprocess.run(
        [sys.executable, "-m", "tests.journey.many_partitions", count, "256", tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout.splitlines()[-1]), int(count))


def test_places_by_part_are_those_of_a_loop():
    parts = np.random.default_rng(0).integers(0, 9, 200)
    found = {part: places.tolist() for part, places in by_part(parts)}
    assert found == {
        part: np.flatnonzero(parts == part).tolist() for part in np.unique(parts).tolist()
    }
    assert list(by_part(np.empty(0, np.int64))) == []
