"""Training that is told to stop, again and again, at random moments. Oracle: the same run, which nobody stopped."""

import os
import random
import re
import signal
import time

import pytest
from launching.programs import wait_until
from made.kills import KILLS
from training.commands import Command, Journey
from training.runs import metrics, weights

STEPS_A_STOP = 16
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
LAG_S = 1.0
"""Longest way from the command line to its rank."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 90 * KILLS)]


@pytest.fixture(autouse=True)
def one_core():
    """Sums of floats depend on a rank's threads, and those on the cores that loading leaves to it."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


def press_ctrl_c(command: Command) -> None:
    command.press_ctrl_c()


def send(command: Command) -> None:
    command.send(signal.SIGTERM)


def send_to_all(command: Command) -> None:
    """What a service manager does: SIGTERM to the group and to every process below."""
    below = command.below()
    os.killpg(command.pid, signal.SIGTERM)
    for pid in below:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue


WAYS = [(press_ctrl_c, 130), (send, 143), (send_to_all, 143)]


def make_journey(base, *, stops, **train):
    return Journey(
        base,
        model={"architecture": MODEL},
        global_batch=32,
        epochs=STEPS_A_STOP * stops * 32 // 48,
        keep_checkpoints=2,
        **train,
    )


def last_step(journey):
    lines = journey.lines()
    return lines[-1]["step"] if lines else 0


def saved_step(command):
    [step] = {int(n) for n in re.findall(r"saved at step (\d+)", command.output)}
    assert f"saved at step {step}; run the same command again" in command.last_line()
    return step


def await_start(command, seconds):
    """Wait for its rank, and then a while."""
    assert wait_until(lambda: command.pids("neuclip.training.worker")), command.output
    time.sleep(seconds)


def await_step(journey, command, step):
    assert wait_until(lambda: last_step(journey) >= step), command.output


def assert_stopped_in_order(journey, command, code):
    assert command.wait() == code, command.output
    assert "Traceback" not in command.output
    assert not journey.leftovers()
    assert not list((journey.folder / "checkpoints").glob(".unfinished-*"))


def assert_told_at(journey, before, saved, *, lag_s):
    """See that no step was lost, and none begun after the one in progress, but for those on the signal's way."""
    assert saved >= before
    after = [line for line in journey.lines() if before + 2 < line["step"] <= saved]
    assert sum(32 / line["samples_per_s"] for line in after) <= lag_s


def test_it_goes_on_from_where_it_was_told_and_ends_with_the_same_bits(tmp_path):
    journey = make_journey(tmp_path / "journey", stops=KILLS)
    draw, saved = random.Random(KILLS), 0
    for number in range(KILLS):
        tell, code = WAYS[number % len(WAYS)]
        workers = 2 * (number % 2)
        in_the_start = number > 0 and draw.random() < 0.2
        command = journey.begin("--set", f"train.loader.workers={workers}")
        if in_the_start:
            await_start(command, draw.uniform(0, 4))
        else:
            await_step(journey, command, saved + draw.randint(1, STEPS_A_STOP // 2))
            time.sleep(draw.uniform(0, 0.05))
        command.below()
        before = last_step(journey)
        tell(command)
        assert_stopped_in_order(journey, command, code)
        resumed, saved = saved, saved_step(command)
        assert_told_at(journey, before, saved, lag_s=0 if tell is send_to_all else LAG_S)
        if resumed and not in_the_start:
            assert f"resumed at step {resumed}" in command.output
        print(f"stop {number + 1}: {tell.__name__}, {workers} workers, told at {before}, {saved=}")
    command = journey.begin()
    assert command.wait(600) == 0, command.output
    assert f"resumed at step {saved}" in command.output
    stopped = journey.folder.rename(tmp_path / "stopped")
    assert journey.begin().wait(600) == 0
    assert weights(journey.folder) == weights(stopped)
    digests = [
        [(line["step"], line["sample_ids_sha256"]) for line in metrics(folder)]
        for folder in (stopped, journey.folder)
    ]
    assert digests[0] == digests[1]
    assert [step for step, _ in digests[0]] == list(range(1, len(digests[0]) + 1))
