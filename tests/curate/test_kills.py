"""Killed at any moment and run again, curate leaves the same bytes. Oracle: an undisturbed run."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made.acquired import commit_acquired, some_pairs
from made.kills import KILLS

from neuclip.stages.manifest import is_committed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CURATE = """
import sys
from pathlib import Path
from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.foundation.progress import silent
from neuclip.curate.masks import prepare
from neuclip.stages.workspace import StageIdentity, commit_stage
root, acquire_uri, metadata = sys.argv[1:]
config = CurateConfig.model_validate({"rules": [
    {"kind": "caption_words", "min": 2}, {"kind": "sql", "keep": "hash(uid) % 10 > 0"},
    {"kind": "language", "keep": ["en", "de", "fr"]}, {"kind": "duplicate_images"},
    {"kind": "near_duplicate_images"}, {"kind": "balance", "metadata": metadata, "most_per_entry": 300}]})
print("begun", flush=True)
sys.path.append("tests")
from made.scored import commit_scored
score_uri = commit_scored(root, acquire_uri, config)
prepared = prepare(config, acquire_uri=acquire_uri, score_uri=score_uri, seed=0, scratch=Path(root))
commit_stage(StageIdentity("curate", 1, "k", {}, {}, root), lambda w: run_curate(
    config, acquire_uri=acquire_uri, workspace=w, progress=silent, seed=0, scores=prepared.scores,
    masks=prepared.masks))
"""


def begin(root, acquire_uri, metadata):
    words = [sys.executable, "-c", CURATE, str(root), acquire_uri, str(metadata)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "begun\n"
    return child


def content(root):
    """Return the digests of what curate committed, but for its manifests: they tell times."""
    files = [p for p in Path(root).rglob("*") if p.is_file() and p.name != "manifest.json"]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(root).parts[0] in ("curate", "score")
    }


def test_killed_at_random_moments(tmp_path):
    metadata = tmp_path / "metadata.txt"
    metadata.write_text("number\ndrawn\n")
    draw = random.Random(3)
    contents = []
    for name, kills in (("undisturbed", 0), ("killed", KILLS)):
        root = tmp_path / name
        acquire_uri = commit_acquired(
            root, [some_pairs(700, 0), some_pairs(700, 700), some_pairs(300, 1400)]
        )
        killed, longest = 0, 3.0
        while killed < kills:
            child = begin(root, acquire_uri, metadata)
            start = time.monotonic()
            try:
                assert child.wait(draw.uniform(0, longest)) == 0
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
                killed += 1
            else:
                longest = max(0.2, 0.9 * (time.monotonic() - start))
                (root / "curate" / "k" / "manifest.json").unlink()
                for left in (root / "score").rglob("manifest.json"):
                    left.unlink()
            child.stdout.close()
        child = begin(root, acquire_uri, metadata)
        assert child.wait() == 0
        child.stdout.close()
        assert is_committed(str(root / "curate" / "k"))
        contents.append(content(root))
    undisturbed, killed = contents
    assert any(name.endswith("verdicts.parquet") for name in undisturbed)
    assert killed == undisturbed
