"""A Slurm cluster of one machine: sbatch, squeue, sacct, scancel, scontrol and srun as programs.

Called as `fake_slurm.py PROGRAM ARGUMENTS...`. What it was asked and what it knows lies in the folder that
FAKE_SLURM names; jobs really run. A file there named `refuse` is what sbatch answers before it fails; `lost`
makes it forget all jobs.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["FAKE_SLURM"])
KILL_WAIT_S = 30  # Slurm's own default
PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun")


def sbatch(arguments):
    script = sys.stdin.read()
    if (FOLDER / "refuse").exists():
        sys.exit((FOLDER / "refuse").read_text())
    job = str(100 + len(list(FOLDER.glob("job-*"))))
    folder = FOLDER / f"job-{job}"
    folder.mkdir()
    (folder / "script").write_text(script)
    (folder / "state").write_text("PENDING")
    subprocess.Popen(
        [sys.executable, __file__, "slurmd", job],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"{job};cluster")


def slurmd(arguments):
    """Run a job and keep its state."""
    [job] = arguments
    folder = FOLDER / f"job-{job}"
    found = re.findall(r"^#SBATCH --([\w-]+)=(.*)$", (folder / "script").read_text(), re.M)
    options = {name: "".join(shlex.split(value)) for name, value in found}  # it takes quotes, too
    environment = {
        **os.environ,
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "node[0-9]",
        "FAKE_NODES": options["nodes"],
    }
    with Path(options["output"]).open("ab") as output:
        run = subprocess.Popen(
            ["bash", folder / "script"],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    (folder / "pid").write_text(str(run.pid))
    (folder / "state").write_text("RUNNING")
    code = run.wait()
    if (folder / "state").read_text() == "RUNNING":
        (folder / "state").write_text("COMPLETED" if code == 0 else "FAILED")


def squeue(arguments):
    state = state_of(arguments)
    if state is None:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print(state)


def sacct(arguments):
    print(state_of(arguments) or "", end="")


def state_of(arguments):
    [job] = [word.removeprefix("--jobs=") for word in arguments if word.startswith("--jobs=")]
    path = FOLDER / f"job-{job}" / "state"
    return None if (FOLDER / "lost").exists() or not path.exists() else path.read_text()


def scancel(arguments):
    folder = FOLDER / f"job-{arguments[-1]}"
    (folder / "state").write_text("CANCELLED")
    try:
        group = int((folder / "pid").read_text())
        os.killpg(group, signal.SIGTERM)
        end = time.monotonic() + KILL_WAIT_S
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return


def scontrol(arguments):
    assert arguments == ["show", "hostnames", "node[0-9]"], arguments
    for _ in range(int(os.environ["FAKE_NODES"])):
        print("localhost")


def srun(arguments):
    """Run a task for each node; the first that fails ends the others."""
    command = [word for word in arguments if not word.startswith("--kill-on-bad-exit")]
    if "--" in command:
        assert command.index("--") > 1
    nodes = int(os.environ["FAKE_NODES"])
    tasks = [
        subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(number)})
        for number in range(nodes)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while any(task.poll() is None for task in tasks):
            time.sleep(0.05)
            if any(task.poll() for task in tasks):
                break
    finally:
        for task in tasks:
            task.terminate()
        codes = [task.wait() for task in tasks]
    sys.exit(max(codes))


if __name__ == "__main__":
    program, *rest = sys.argv[1:]
    if program != "slurmd":
        with (FOLDER / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps([program, *rest]) + "\n")
    globals()[program](rest)
