"""Killed or signalled anywhere, any process of a run, and run again: the end is that of a run nobody disturbed.

Oracle: a whole run of the same recipe at another root, the processes of this machine, and what is left on its disk.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from end_to_end.journeys import REPOSITORY, check_ledgers
from end_to_end.processes import MARK, kind_of, marked, new_mark
from made.demo_web import DEMO_RECIPE, SMALL, DemoWeb, as_options, demo_web
from made.kills import KILLS
from made.stages import NAMES

from neuclip.stages.manifest import read_manifest, verify_sizes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
AIMS = {"acquire": 4, "train": 5, **dict.fromkeys(("select", "evaluate", "publish"), 2)}
"""Kills of one journey in a stage; one if it is not named."""
IN_CHILDREN = ("acquire", "train")
GONE_S = 40
"""Within which all processes of a run are gone after it has ended."""
HANGS_S = 900
"""No run of this size lasts longer, on the busiest machine."""


@dataclass
class Tally:
    """Who was hit, by what and where."""

    kinds: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    signals: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)


class Run:
    """The command line at work."""

    def __init__(self, root: Path, web: DemoWeb) -> None:
        self.root, self.mark = root, new_mark()
        fields = {
            **SMALL,
            "root": str(root),
            **web.inputs,
            "acquire.partition_rows": 40,
            "train.global_batch": 16,
            "train.epochs": 3,
            "train.keep_checkpoints": 2,
            "train.loader.workers": 1,
        }
        command = [str(Path(sys.executable).with_name("neuclip")), "run", DEMO_RECIPE, "--json"]
        home = root.parent
        self._log = (home / "log").open("a+")
        self.child = subprocess.Popen(
            [*command, *as_options(fields)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=REPOSITORY,
            env={
                **os.environ,
                MARK: self.mark,
                "TMPDIR": str(home / "tmp"),
                "NEUCLIP_CACHE": str(home / "cache"),
            },
        )

    def stage(self) -> str | None:
        """Return the stage that is at work now, by its lease."""
        for path in (self.root / ".leases").glob("*.json"):
            name, _, rest = path.name.partition("-")
            if not rest.startswith("part-"):
                return name
        return None

    def end(self) -> dict[str, Any] | None:
        """Wait for its end; return what it did, or None if it failed. Nothing of it may be left."""
        out, _ = self.child.communicate(timeout=HANGS_S)
        deadline = time.monotonic() + GONE_S
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = [(process.pid, _words(process)) for process in left]
        for process in left:
            process.kill()
        assert not left, f"outlived the run: {names}"
        self._log.close()
        return json.loads(out) if self.child.returncode == 0 else None


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:300]
    except psutil.Error:
        return "gone"


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Generator[DemoWeb]:
    folder = tmp_path_factory.mktemp("web") / "web"
    slowly = {"on_request": lambda path: time.sleep(0.05)}
    with demo_web(folder, pairs=120, evaluation_scenes=50, **slowly) as web:
        yield web


def home_of(tmp_path: Path, name: str) -> Path:
    home = tmp_path / name
    (home / "tmp").mkdir(parents=True)
    return home / "root"


def test_killed_anywhere(web, tmp_path):
    whole = Run(home_of(tmp_path, "whole"), web).end()
    assert whole is not None
    lasts_s = {name: stage["seconds"] for name, stage in whole["stages"].items()}
    draw, tally, journeys = random.Random(13), Tally(), 0
    while tally.kinds.total() < KILLS:
        journeys += 1
        root = home_of(tmp_path, f"journey-{journeys}")
        disturb(root, web, lasts_s, draw, tally)
        again = Run(root, web).end()
        assert again is not None, (root.parent / "log").read_text()[-3000:]
        compare(root, whole, again)
    for name in ("kinds", "stages", "signals", "ends"):
        print(f"{name}: {dict(getattr(tally, name).most_common())}")
    print(f"{tally.kinds.total()} kills in {journeys} journeys; the whole run: {lasts_s}")
    if KILLS >= 100:
        assert set(NAMES) <= set(tally.stages)
        assert min(tally.signals.values()) > KILLS // 6


def disturb(
    root: Path, web: DemoWeb, lasts_s: dict[str, float], draw: random.Random, tally: Tally
) -> None:
    """Kill again and again, in one stage after the other, until the run has come through or there were enough."""
    aims = ["start", *(stage for stage in NAMES for _ in range(AIMS.get(stage, 1)))]
    if len(aims) > KILLS:
        aims = [aims[place] for place in sorted(draw.sample(range(len(aims)), KILLS))]
    run: Run | None = None
    for aim in aims:
        if tally.kinds.total() >= KILLS:
            break
        if run is None:
            run = Run(root, web)
        if wait_for(run, aim, draw.uniform(0, 0.9 * lasts_s.get(aim, 3.0))):
            hit(run, draw, tally)
        if has_ended(run):
            done = run.end()
            tally.ends["finished" if done else f"exit {run.child.returncode}"] += 1
            if done is not None:
                return
            run = None
    if run is not None:
        done = run.end()
        tally.ends["finished" if done else f"exit {run.child.returncode}"] += 1


def wait_for(run: Run, aim: str, delay_s: float) -> bool:
    """Wait for a moment in a stage, or after it if it is over; tell whether the run is still there."""
    later = NAMES[NAMES.index(aim) :] if aim != "start" else ()
    deadline = time.monotonic() + HANGS_S
    while aim != "start" and not (run.stage() in later and has_begun(run, aim)):
        if run.child.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"waited for {aim} for {HANGS_S} s"
        time.sleep(0.005)
    time.sleep(delay_s)
    return run.child.poll() is None


def has_begun(run: Run, aim: str) -> bool:
    """Tell whether a stage that works in processes of its own has some, or is over."""
    return aim not in IN_CHILDREN or run.stage() != aim or len(marked(run.mark)) > 1


def hit(run: Run, draw: random.Random, tally: Tally) -> None:
    """Signal a process: of the kind that was hit least so far."""
    stage = run.stage() or "between"
    kinds: dict[str, list[psutil.Process]] = {}
    for process in marked(run.mark):
        try:
            kinds.setdefault(kind_of(process, run.child.pid), []).append(process)
        except psutil.Error:
            continue
    if not kinds:
        return
    kind = min(sorted(kinds), key=lambda kind: (tally.kinds[kind], draw.random()))
    number = draw.choice(SIGNALS)
    try:
        draw.choice(kinds[kind]).send_signal(number)
    except psutil.Error:
        return
    tally.kinds[kind] += 1
    tally.stages[stage] += 1
    tally.signals[number.name] += 1
    print(f"{number.name} to {kind} in {stage}", flush=True)


def has_ended(run: Run) -> bool:
    """Give a run that was hit a moment to end; one that goes on may be hit again."""
    try:
        run.child.wait(5)
    except subprocess.TimeoutExpired:
        return False
    return True


def compare(root: Path, whole: dict[str, Any], again: dict[str, Any]) -> None:
    """Hold what lies at a root against the run that nobody disturbed."""
    for stage, expected in whole["stages"].items():
        found = again["stages"][stage]
        assert found["key"] == expected["key"], stage
        assert found["ledger"] == expected["ledger"], stage
        manifest = read_manifest(found["uri"])
        verify_sizes(found["uri"], manifest)
        assert manifest.parts == read_manifest(expected["uri"]).parts, stage
    check_ledgers({stage: done["ledger"] for stage, done in again["stages"].items()})
    assert again["scores"] == whole["scores"]
    uids = uids_of(again)
    assert len(set(uids)) == len(uids)
    assert uids == uids_of(whole)
    for stage, ending in (("train", "safetensors"), ("publish", "safetensors"), ("shard", "")):
        bits, expected = digests(again, stage, ending), digests(whole, stage, ending)
        assert bits == expected, stage
        assert bits or stage == "shard"
    left = [*(root / ".leases").glob("*"), *(root / ".scratch").glob("*")]
    left += (root.parent / "tmp").glob("neuclip-*/*")
    assert left == []


def uids_of(result: dict[str, Any]) -> list[str]:
    """Return the uids of all rows that acquire accounts for, in order of the alphabet."""
    acquire = result["stages"]["acquire"]
    parts = Path(acquire["uri"]).parent / "parts"
    rows = [
        pq.read_table(parts / part / "rows.parquet", columns=["uid"])["uid"].to_pylist()
        for part in read_manifest(acquire["uri"]).parts
    ]
    return sorted(uid for part in rows for uid in part)


def digests(result: dict[str, Any], stage: str, ending: str) -> dict[str, str]:
    files = read_manifest(result["stages"][stage]["uri"]).files
    return {file.name: file.sha256 for file in files if file.name.endswith(ending)}
