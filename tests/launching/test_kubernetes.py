"""A cluster whose kubectl is a stand-in that runs pods. Oracle: what it was asked, and the process table."""

import os
import signal
import sys
import threading

import pytest
import yaml
from launching.clusters import Cluster
from launching.programs import BEGIN, ENDLESS, is_gone, times_begun, wait_until

from neuclip.foundation.errors import ChildError, ConfigError
from neuclip.launching import programs
from neuclip.launching.config import LaunchConfig
from neuclip.launching.kubernetes import manifest

SECTION = {"image": "clip:1", "poll_s": 0.2}


@pytest.fixture
def kubernetes(tmp_path, monkeypatch) -> Cluster:
    return Cluster("fake_kubernetes", tmp_path, monkeypatch)


def launch(told, code, *, kubernetes=None, **config):
    section = {**SECTION, "python": sys.executable, **(kubernetes or {})}
    return told.launch(code, kubernetes=section, **config)


def test_a_job_is_created_followed_streamed_and_deleted(told, kubernetes):
    assert launch(told, BEGIN + "import time; print('hello', flush=True); time.sleep(2)") == 0
    assert "hello" in told.lines
    assert "hello" in (told.folder / "train.log").read_text()
    verbs = [words[2] for words in kubernetes.calls("kubectl", "--namespace=default")]
    assert verbs[:3] == ["delete", "apply", "get"]
    assert verbs[-1] == "delete"
    assert "logs" in verbs
    assert not list(kubernetes.folder.glob("neuclip-*"))
    assert not kubernetes.processes()


def test_the_manifest_says_what_the_recipe_says(told, kubernetes):
    section = {
        **SECTION,
        "pods": 2,
        "namespace": "vision",
        "secret": "s3-keys",
        "resources": {"nvidia.com/gpu": 8},
    }
    program = told.program("print('a: b') # {x}\n")
    config = LaunchConfig.model_validate({"processes": 8, "kubernetes": section})
    text = manifest(config, program, name="neuclip-abc1", max_restarts=2)
    service, job = yaml.safe_load_all(text)
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"] == job["metadata"] == {"name": "neuclip-abc1", "namespace": "vision"}
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    [container] = pod["containers"]
    assert container["command"][:4] == [
        *("python", "-m", "neuclip.launching.node"),
        "--endpoint=neuclip-abc1-0.neuclip-abc1.vision.svc:29500",
    ]
    assert {"--processes=8", "--nodes=2", "--max-restarts=2"} <= set(container["command"])
    assert container["command"][-2:] == program.words
    assert container["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}


@pytest.mark.slow
def test_a_job_that_fails_is_created_again(told, kubernetes):
    code = times_begun(told.folder) + "if n < 2: print('oh no', flush=True); sys.exit(3)"
    assert launch(told, code) == 1
    assert "oh no" in told.lines
    code = BEGIN + "import sys; print('oh no'); sys.exit(3)"
    with pytest.raises(ChildError, match=r"Kubernetes job neuclip-abc1 failed; .*\n@begun\noh no"):
        launch(told, code, max_restarts=0)


def test_a_job_that_vanishes_is_told(told, kubernetes, monkeypatch):
    monkeypatch.setattr(programs, "_MOST_MISSED", 3)
    threading.Thread(
        target=lambda: wait_until(told.pids) and (kubernetes.folder / "lost").touch()
    ).start()
    with pytest.raises(ChildError, match="Kubernetes job neuclip-abc1 has vanished, 3 questions"):
        launch(told, ENDLESS, max_restarts=0)
    assert wait_until(lambda: not kubernetes.processes())


def test_an_exception_deletes_the_job(told, kubernetes):
    def interrupt():
        wait_until(told.pids)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        launch(told, ENDLESS)
    assert wait_until(lambda: all(is_gone(pid) for pid in told.pids()))
    assert wait_until(lambda: not kubernetes.processes())
    assert not list(kubernetes.folder.glob("neuclip-*"))


def test_what_kubectl_refuses_is_said_once(told, kubernetes):
    (kubernetes.folder / "refuse").write_text("error: the server has no such image")
    with pytest.raises(ChildError, match="the server has no such image"):
        launch(told, BEGIN)
    assert len(kubernetes.calls("kubectl", "--namespace=default", "apply")) == 1


def test_a_cluster_that_is_not_here_is_said(told, kubernetes, monkeypatch):
    kubernetes.uninstall()
    monkeypatch.setenv("PATH", str(kubernetes.folder))
    with pytest.raises(ConfigError, match="kubectl is not installed here"):
        launch(told, BEGIN)


def test_a_template_that_does_not_fit_is_refused(told, kubernetes, tmp_path):
    (tmp_path / "my.yaml").write_text("gpus: {{ gpus }}")
    with pytest.raises(ConfigError, match=r"kubernetes\.template .*'gpus' is undefined"):
        launch(told, BEGIN, kubernetes={"template": str(tmp_path / "my.yaml")})
    assert not kubernetes.calls()
