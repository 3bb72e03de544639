"""A cluster whose programs are stand-ins that run jobs. Oracle: what they were asked, and the process table."""

import os
import signal
import subprocess
import threading

import pytest
from launching.clusters import Cluster
from launching.programs import BEGIN, ENDLESS, is_gone, times_begun, wait_until

from neuclip.foundation.errors import BudgetError, ChildError, ConfigError, StoppedError
from neuclip.launching import programs
from neuclip.launching.config import LaunchConfig
from neuclip.launching.slurm import batch_script

FAST = {"poll_s": 0.2}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Cluster:
    return Cluster("fake_slurm", tmp_path, monkeypatch)


def launch(told, code, *, slurm=None, **config):
    section = {**FAST, "log_folder": str(told.folder / "logs"), **(slurm or {})}
    return told.launch(code, slurm=section, **config)


def test_a_job_is_submitted_followed_and_streamed(told, slurm):
    options = {"partition": "gpu", "gres": "gpu:8"}
    assert launch(told, BEGIN + "print('hello')", slurm={"options": options}) == 0
    assert "hello" in told.lines
    assert "hello" in (told.folder / "train.log").read_text()
    assert slurm.calls("sbatch") == [["sbatch", "--parsable"]]
    assert slurm.calls("squeue")[0] == [
        "squeue",
        "--noheader",
        "--states=all",
        "--format=%T",
        "--jobs=100",
    ]
    assert not slurm.calls("scancel")
    script = (slurm.folder / "job-100" / "script").read_text()
    for option in (
        *("job-name=neuclip-abc1", "nodes=1", "ntasks-per-node=1", "dependency=singleton"),
        *("partition=gpu", "gres=gpu:8", "signal=USR1@90", "requeue"),
    ):
        assert f"\n#SBATCH --{option}\n" in script
    assert not slurm.processes()


def test_words_stay_words(told, tmp_path, slurm):
    """Oracle: bash itself, which is asked for the words of the last line."""
    program = told.program("print('$HOME `id` \"x\"'); # it's")
    config = LaunchConfig.model_validate({"slurm": FAST})
    script = batch_script(config, program, name="n", log_path=tmp_path / "l o g", max_restarts=3)
    last = script.splitlines()[-1].removeprefix("exec srun --kill-on-bad-exit=1 ")
    printed = subprocess.run(
        ["bash", "-c", f"first=a; printf '%s\\0' {last}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    assert printed[-2] == program.words[-1]
    assert "--endpoint=a:29500" in printed


def test_a_job_that_fails_is_submitted_again(told, slurm):
    code = times_begun(told.folder) + "if n < 2: print('oh no', flush=True); sys.exit(3)"
    assert launch(told, code) == 1
    assert len(slurm.calls("sbatch")) == 2
    with pytest.raises(ChildError, match=r"Slurm job 102 ended as FAILED; .*\n(.*\n)*.*oh no"):
        launch(told, BEGIN + "import sys; print('oh no'); sys.exit(3)", max_restarts=0)


@pytest.mark.parametrize("error", [StoppedError, BudgetError])
def test_ranks_that_a_cluster_stopped_are_started_again_but_not_beyond_the_budget(
    told, slurm, error
):
    """A cluster stops ranks to let others in; they save, write it down and end well."""

    class Rank(list):
        def append(self, line):
            super().append(line)
            if line == "saved":
                told.errors.append(error("stopped at step 7"))

    told.lines = Rank()
    code = times_begun(told.folder) + "if n < 2: print('saved')"
    if error is StoppedError:
        assert launch(told, code) == 1
    else:
        with pytest.raises(BudgetError, match="stopped at step 7"):
            launch(told, code)


def test_a_job_that_vanishes_is_told(told, slurm, monkeypatch):
    monkeypatch.setattr(programs, "_MOST_MISSED", 3)
    threading.Thread(
        target=lambda: wait_until(told.pids) and (slurm.folder / "lost").touch()
    ).start()
    with pytest.raises(ChildError, match="Slurm job 100 has vanished, 3 questions in a row"):
        launch(told, ENDLESS, max_restarts=0)
    assert slurm.calls("scancel", "100")
    assert wait_until(lambda: not slurm.processes())


def test_a_job_that_somebody_else_cancels_is_not_submitted_again(told, slurm):
    def cancel():
        wait_until(told.pids)
        subprocess.run(["scancel", "100"], check=True)

    threading.Thread(target=cancel).start()
    with pytest.raises(StoppedError, match="Slurm job 100 was cancelled by somebody else"):
        launch(told, ENDLESS)
    assert len(slurm.calls("sbatch")) == 1


def test_an_exception_cancels_the_job(told, slurm):
    def interrupt():
        wait_until(told.pids)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        launch(told, ENDLESS)
    assert slurm.calls("scancel") == [["scancel", "100"]]
    assert wait_until(lambda: all(is_gone(pid) for pid in told.pids()))
    assert wait_until(lambda: not slurm.processes())


def test_what_sbatch_refuses_is_said_once(told, slurm):
    (slurm.folder / "refuse").write_text("sbatch: error: invalid partition specified: gpu")
    with pytest.raises(ChildError, match="exit code 1: sbatch: error: invalid partition"):
        launch(told, BEGIN)
    assert len(slurm.calls("sbatch")) == 1


def test_a_cluster_that_is_not_here_is_said(told, slurm, monkeypatch):
    slurm.uninstall()
    with pytest.raises(ConfigError, match="sbatch is not installed here"):
        launch(told, BEGIN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#SBATCH --nodes={{ node_count }}", "'node_count' is undefined; it is given log, name"),
        ("{% if %}", "does not fit"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_before_anything_is_submitted(
    told, slurm, tmp_path, text, message
):
    template = tmp_path / "my.sbatch"
    if text is not None:
        template.write_text(text)
    with pytest.raises(ConfigError, match=r"train\.launch\.slurm\.template") as caught:
        launch(told, BEGIN, slurm={"template": str(template)})
    assert message in str(caught.value)
    assert not slurm.calls()
