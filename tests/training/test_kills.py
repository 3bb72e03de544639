"""Oracle: a run that nothing disturbed; killed runs must end with the same bits."""

import contextlib
import random
import threading
import time

import psutil
import pytest
from made.kills import FEW_KILLS, KILLS
from training.runs import (
    ARCHITECTURE,
    EVERY_TERM,
    SMALL_NETWORK,
    make_config,
    metrics,
    ranks,
    train,
    weights,
)

QUICK = {
    "epochs": 6,
    "save_every_steps": 4,
    "loader": {"workers": 1},
    "keep_checkpoints": 50,
    "held_out_samples": 4,
    "probe": None,
}
DEADLINE_S = 800
FEW_TOKENS_THEN_ALL = {
    "model": {
        "architecture": {
            **ARCHITECTURE,
            "vision_cfg": {**ARCHITECTURE["vision_cfg"], "pos_embed_type": "sin_cos_2d"},
        }
    },
    "phases": [
        {"epochs": 2, "image_px": 8, "context_length": 5, "text_tokens": {"name": "random"}},
        {"epochs": 2, "image_tokens": {"name": "random", "keep": "1/2"}, "positions": "regenerate"},
        {"epochs": 2, "learn_positions": True},
    ],
    "objective": {"name": "neuclip", "estimator": SMALL_NETWORK, "warm_steps": 3},
}


class Killer(threading.Thread):
    """Kills one rank after the other with SIGKILL: at random steps, and in the middle of writing a checkpoint."""

    def __init__(self, folder, *, kills, last_step, seed):
        super().__init__(daemon=True)
        self.folder, self.in_mid_checkpoint, self.killed_at = folder, 0, 0.0
        draw = random.Random(seed)
        self.moments = sorted(draw.sample(range(2, last_step), kills))
        self.draw, self.steps, self.deadline = draw, [], time.monotonic() + DEADLINE_S

    def run(self):
        for number, step in enumerate(self.moments):
            while not (self.is_time(step, in_mid_checkpoint=number % 2 == 1) and self.kill_one()):
                if time.monotonic() > self.deadline:
                    return
                time.sleep(0.002)
            self.steps.append(step)

    def is_time(self, step, *, in_mid_checkpoint):
        if in_mid_checkpoint and not any(self.unfinished()):
            return False
        log = self.folder / "metrics.jsonl"
        if not log.exists() or log.stat().st_mtime < self.killed_at:
            return False  # these are the lines of the run that was killed last
        lines = metrics(self.folder)
        return bool(lines) and lines[-1]["step"] >= step

    def unfinished(self):
        return (self.folder / "checkpoints").glob(".unfinished-*/*")

    def kill_one(self):
        """Kill one rank, chosen at random; return whether there was one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return self._kill_one()
        return False

    def _kill_one(self):
        alive = [process for process in ranks() if is_alive(process)]
        loaders = {child.pid for process in alive for child in process.children()}
        victims = [process for process in alive if process.pid not in loaders]
        if not victims:
            return False
        self.draw.choice(victims).kill()
        self.killed_at = time.time()
        self.in_mid_checkpoint += any(self.unfinished())
        return True


def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def digests(folder):
    return {line["step"]: line["sample_ids_sha256"] for line in metrics(folder)}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("processes", "kills", "changes"),
    [
        (1, KILLS, {}),
        (2, FEW_KILLS, {}),
        (1, FEW_KILLS, FEW_TOKENS_THEN_ALL),
        (1, FEW_KILLS, {**EVERY_TERM, "global_views": "all"}),
    ],
    ids=["one", "two", "phases", "terms"],
)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    packed, tmp_path, processes, kills, changes
):
    launch = {"processes": processes, "max_restarts": kills}
    config = make_config(**{**QUICK, **changes}, launch=launch)
    whole, manifest = train(tmp_path / "whole", packed, config)
    steps = manifest.summary["steps"]
    cut = tmp_path / "cut"
    killer = Killer(cut / "train" / "k", kills=kills, last_step=steps - 1, seed=processes)
    killer.start()
    folder, killed = train(cut, packed, config)
    killer.join(timeout=5)
    assert len(killer.steps) == killed.summary["restarts"] == kills
    assert killer.in_mid_checkpoint >= 1
    assert weights(folder) == weights(whole)
    assert digests(folder) == digests(whole)
    assert set(digests(folder)) == set(range(1, steps + 1))
    assert not list((folder / "checkpoints").glob(".unfinished-*"))
