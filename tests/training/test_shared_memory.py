"""Docker's 64 MB of shared memory. Oracle: a real disk of that size at /dev/shm."""

import pytest
from loading.shared_memory import run_with_shared_memory
from training.commands import PROGRAM, Journey
from training.runs import ARCHITECTURE

PICTURES = {"vision_cfg": ARCHITECTURE["vision_cfg"] | {"image_size": 224, "patch_size": 32}}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_does_not_fit_is_refused_before_training_and_what_fits_trains(tmp_path):
    """A batch is 32 x (3 x 224 x 224 + 12 tokens and an id of 8 bytes), 4.82 MB; four processes may be 16 ahead."""
    journey = Journey(
        tmp_path, model={"architecture": ARCHITECTURE | PICTURES}, global_batch=32, epochs=2
    )
    words = [*PROGRAM[1:], "run", str(journey.path), "--only", "train", "--set"]
    done = run_with_shared_memory(64, [*words, "train.loader.workers=4"], seconds=180)
    assert done.returncode == 2, done.stderr
    [said] = [line for line in done.stderr.splitlines() if "Error" in line]
    assert said.startswith(
        "ConfigError: loading needs 86.76 MB of shared memory (18 batches of 4.82 MB), but /dev/shm has 67.11 MB free"
    )
    assert "docker run --shm-size=8g" in said
    assert "train.loader.workers" in said
    assert "Traceback" not in done.stderr
    assert not (journey.folder / "train.log").exists()
    done = run_with_shared_memory(64, [*words, "train.loader.workers=1"], seconds=180)
    assert done.returncode == 0, done.stderr
    assert (journey.folder / "manifest.json").exists()
