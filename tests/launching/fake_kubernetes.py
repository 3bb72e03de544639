"""A Kubernetes cluster of one machine: kubectl as a program whose pods really run.

What it was asked and what it knows lies in the folder that FAKE_KUBERNETES names. A file there named `refuse` is
what it answers to `apply` before it fails; `lost` makes it forget all jobs. The cluster's names for pods lead to
this machine.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

FOLDER = Path(os.environ["FAKE_KUBERNETES"])
PROGRAMS = ("kubectl",)


def apply(options):
    text = sys.stdin.read()
    if (FOLDER / "refuse").exists():
        sys.exit((FOLDER / "refuse").read_text())
    service, job = yaml.safe_load_all(text)
    assert service["kind"] == "Service"
    folder = FOLDER / job["metadata"]["name"]
    folder.mkdir()
    (folder / "manifest.yaml").write_text(text)
    subprocess.Popen(
        [sys.executable, __file__, "cluster", str(folder)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def cluster(folder):
    """Run the pods of a job; the first that fails fails the job."""
    folder = Path(folder)
    service, job = yaml.safe_load_all((folder / "manifest.yaml").read_text())
    spec = job["spec"]
    [container] = spec["template"]["spec"]["containers"]
    names = rf"{job['metadata']['name']}-0\.{service['metadata']['name']}\.\w+\.svc"
    command = [re.sub(names, "127.0.0.1", word) for word in container["command"]]
    pods = []
    for number in range(spec["completions"]):
        with (folder / f"{number}.log").open("wb") as output:
            environment = {**os.environ, "JOB_COMPLETION_INDEX": str(number)}
            pods.append(
                subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                )
            )
    (folder / "pids").write_text(" ".join(str(pod.pid) for pod in pods))
    while any(pod.poll() is None for pod in pods) and not any(pod.poll() for pod in pods):
        time.sleep(0.05)
    state = "Failed" if any(pod.poll() for pod in pods) else "Complete"
    end(folder)
    (folder / "state").write_text(state)


def get(options):
    folder = FOLDER / options[1]
    if (FOLDER / "lost").exists() or not folder.exists():
        return
    [_, job] = yaml.safe_load_all((folder / "manifest.yaml").read_text())
    status = {"ready": job["spec"]["completions"] if (folder / "pids").exists() else 0}
    if (folder / "state").exists():
        ended = (folder / "state").read_text()
        status = {"conditions": [{"type": ended, "status": "True"}]}
    print(json.dumps({"spec": job["spec"], "status": status}))


def logs(options):
    [name] = [w.removeprefix("--selector=job-name=") for w in options if "selector" in w]
    folder, shown = FOLDER / name, {}
    if "--tail=0" in options:
        shown = {path: path.stat().st_size for path in folder.glob("*.log")}
    while True:
        ended = not folder.exists() or (folder / "state").exists()
        for path in sorted(folder.glob("*.log")):
            text = path.read_text()[shown.get(path, 0) :]
            whole = text[: text.rfind("\n") + 1]
            shown[path] = shown.get(path, 0) + len(whole)
            print(whole, end="", flush=True)
        if ended:
            return
        time.sleep(0.1)


def delete(options):
    _, job = yaml.safe_load_all(sys.stdin.read())
    folder = FOLDER / job["metadata"]["name"]
    if folder.exists():
        end(folder)
        time.sleep(0.3)
        shutil.rmtree(folder, ignore_errors=True)


def end(folder):
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = False
        for pid in (folder / "pids").read_text().split() if (folder / "pids").exists() else ():
            try:
                os.killpg(int(pid), number)
                alive = True
            except ProcessLookupError:
                continue
        if alive and number == signal.SIGTERM:
            time.sleep(2)


if __name__ == "__main__":
    program, *rest = sys.argv[1:]
    if program == "cluster":
        cluster(*rest)
    else:
        with (FOLDER / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps([program, *rest]) + "\n")
        namespace, verb, *options = rest
        assert namespace.startswith("--namespace=")
        globals()[verb]([verb, *options] if verb != "get" else options)
