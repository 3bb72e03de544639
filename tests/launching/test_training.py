"""The trainer through a cluster's launcher. Oracle: one process that nothing disturbed."""

import signal
import sys
import threading

import psutil
import pytest
from launching.clusters import Cluster
from launching.programs import wait_until
from training.runs import make_config, make_packed, metrics, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {"epochs": 3, "loader": {"workers": 0}, "probe": None}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return make_packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def alone(packed, tmp_path_factory):
    folder, _ = train(tmp_path_factory.mktemp("alone"), packed, make_config(**SETTINGS))
    return metrics(folder)


def assert_same_run(lines, expected):
    assert [(line["step"], line["sample_ids_sha256"]) for line in lines] == [
        (line["step"], line["sample_ids_sha256"]) for line in expected
    ]
    assert lines[-1]["loss"] == pytest.approx(expected[-1]["loss"], abs=2e-5)


def test_a_preempted_slurm_job_saves_and_goes_on(packed, alone, tmp_path, monkeypatch):
    """Two nodes; both get the signal that Slurm sends before the end, which no torchrun survives by itself."""
    cluster = Cluster("fake_slurm", tmp_path, monkeypatch)
    run = tmp_path / "train" / "k"

    def preempt():
        wait_until(lambda: (lines := metrics(run)) and lines[-1]["step"] >= 19, seconds=400)
        for process in cluster.processes():
            if process.cmdline()[1:3] == ["-m", "neuclip.launching.node"]:
                process.send_signal(signal.SIGUSR1)

    threading.Thread(target=preempt).start()
    section = {"nodes": 2, "poll_s": 1, "log_folder": str(tmp_path / "logs")}
    launch = {"slurm": section, "max_restarts": 2}
    config = make_config(**SETTINGS, launch=launch, save_every_steps=1000)
    folder, manifest = train(tmp_path, packed, config)
    assert_same_run(metrics(folder), alone)
    assert manifest.summary["restarts"] == 1
    assert manifest.summary["resumed_at"] >= 19
    assert len(cluster.calls("sbatch")) == 2
    assert wait_until(lambda: not cluster.processes())


def test_two_pods_lose_one_and_go_on(packed, alone, tmp_path, monkeypatch):
    cluster = Cluster("fake_kubernetes", tmp_path, monkeypatch)
    run = tmp_path / "train" / "k"

    def lose_a_pod():
        wait_until(lambda: (lines := metrics(run)) and lines[-1]["step"] >= 19, seconds=400)
        pods = [
            p for p in cluster.processes() if p.cmdline()[1:3] == ["-m", "neuclip.launching.node"]
        ]
        lost = max(pods, key=lambda pod: pod.pid)
        for process in [lost, *lost.children(recursive=True)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    threading.Thread(target=lose_a_pod).start()
    section = {"pods": 2, "image": "clip:1", "poll_s": 1, "python": sys.executable}
    config = make_config(**SETTINGS, launch={"kubernetes": section, "max_restarts": 2})
    folder, manifest = train(tmp_path, packed, config)
    assert_same_run(metrics(folder), alone)
    assert manifest.summary["restarts"] == 1
    assert manifest.summary["resumed_at"] >= 16
    assert wait_until(lambda: not cluster.processes())
