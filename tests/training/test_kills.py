"""Oracle: a run that nothing disturbed; killed runs must end with the same bits."""

import random
import threading
import time

import psutil
import pytest
from training.runs import make_config, metrics, ranks, train, weights

QUICK = {
    "epochs": 6,
    "save_every_steps": 4,
    "loader": {"workers": 1},
    "keep_checkpoints": 50,
    "held_out_samples": 4,
    "probe": None,
}
DEADLINE_S = 800


class Killer(threading.Thread):
    """Kills one rank after the other with SIGKILL: at random steps, and in the middle of writing a checkpoint."""

    def __init__(self, folder, *, kills, last_step, seed):
        super().__init__(daemon=True)
        self.folder, self.in_mid_checkpoint = folder, 0
        draw = random.Random(seed)
        self.moments = sorted(draw.sample(range(2, last_step), kills))
        self.draw, self.steps, self.deadline = draw, [], time.monotonic() + DEADLINE_S

    def run(self):
        for number, step in enumerate(self.moments):
            in_mid_checkpoint = number % 2 == 1
            while not self.is_time(step, in_mid_checkpoint=in_mid_checkpoint):
                if time.monotonic() > self.deadline:
                    return
                time.sleep(0.002)
            self.kill_one(step)

    def is_time(self, step, *, in_mid_checkpoint):
        if in_mid_checkpoint and not any(self.unfinished()):
            return False
        lines = metrics(self.folder)
        return bool(lines) and lines[-1]["step"] >= step

    def unfinished(self):
        return (self.folder / "checkpoints").glob(".unfinished-*/*")

    def kill_one(self, step):
        victims = [process for process in ranks() if process.children()] or ranks()
        if not victims:
            return
        victim = self.draw.choice(victims)
        try:
            victim.kill()
            psutil.wait_procs([victim], timeout=20)
        except psutil.NoSuchProcess:
            return
        self.steps.append(step)
        self.in_mid_checkpoint += any(self.unfinished())


def digests(folder):
    return {line["step"]: line["sample_ids_sha256"] for line in metrics(folder)}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("processes", "kills"), [(1, 20), (2, 6)])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(packed, tmp_path, processes, kills):
    config = make_config(**QUICK, launch={"processes": processes, "max_restarts": kills})
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
