"""Killed at random moments, and run again: oracle are the log of the server that was asked, and the journals."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.demo_web import DEMO_RECIPE, as_options, demo_web
from made.kills import KILLS
from servers.prefect_server import free_port

from neuclip.demo.model_server import REQUESTS, model_server
from neuclip.stages.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PAIRS = min(120 * KILLS + 220, 2350)  # more than its runs can ask for before they are killed
REWRITE = {"kind": "rewrite", "source": "wordings", "model": "tiny", "texts": 1}
STEPS = [REWRITE, {"kind": "describe", "model": "tiny"}, {"kind": "fuse", "model": "tiny"}]


class Run:
    """Recipes at one root, whose models a server answers for."""

    def __init__(self, root, web, address):
        self.fields = {
            "root": str(root),
            **web.inputs,
            "acquire.partition_rows": 500,
            "caption.models": {"tiny": {"kind": "endpoint", "model": "demo", "address": address}},
        }
        self.root = Path(root)

    def command(self, stage, steps):
        fields = {**self.fields, "caption.generate": steps}
        program = str(Path(sys.executable).with_name("neuclip"))
        return [program, "run", DEMO_RECIPE, "--only", stage, "--json", *as_options(fields)]

    def whole(self, stage, steps):
        return json.loads(subprocess.check_output(self.command(stage, steps)))

    def killed(self, steps, log, draws):
        """Begin the stage, and kill it a random time after it has asked something."""
        before = count_lines(log)
        with subprocess.Popen(
            self.command("caption", steps), stdout=subprocess.DEVNULL, start_new_session=True
        ) as child:
            while child.poll() is None and count_lines(log) == before:
                time.sleep(0.02)
            time.sleep(draws.uniform(0, 0.8))
            was_alive = child.poll() is None
            os.killpg(child.pid, signal.SIGKILL)
        return was_alive


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def requests(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def journalled(root):
    """Return question id -> when its answer was written down."""
    found = {}
    for path in (root / "caption" / "answers").rglob("*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            [own] = re.findall(r'<answer id="(\w+)">', record["text"])
            assert own not in found, "an answer stands there twice"
            found[own] = record["at"]
    return found


def texts_of(root, uri):
    found = defaultdict(dict)
    for row in pq.read_table(f"{uri}/parts.parquet").to_pylist():
        table = pq.read_table(root / "caption" / "parts" / row["part"] / "texts.parquet")
        for text in table.to_pylist():
            found[text["source"]][text["uid"], text["k"]] = (text["text"], text["status"])
    return found


def test_no_answer_is_asked_for_twice(tmp_path):
    draws = random.Random(16)
    with (
        demo_web(tmp_path / "web", pairs=PAIRS) as web,
        model_server(tmp_path / "models", free_port()) as address,
    ):
        log = tmp_path / "models" / REQUESTS
        run = Run(tmp_path / "lake", web, address)
        for stage in ("acquire", "score", "curate"):
            run.whole(stage, STEPS)
        kills = 0
        while kills < KILLS:
            assert run.killed(STEPS, log, draws), f"it was done after {kills} kills"
            kills += 1
        answer = run.whole("caption", STEPS)
        uri = answer["stages"]["caption"]["uri"]
        kept = read_manifest(uri).ledger.out
        assert kept >= 0.85 * PAIRS
        texts = texts_of(run.root, uri)
        assert {source: len(texts[source]) for source in ("wordings", "vlm", "vecap")} == {
            "wordings": kept,
            "vlm": kept,
            "vecap": sum(status == "ok" for _, status in texts["vlm"].values()),
        }
        answered = journalled(run.root)
        times = defaultdict(list)
        for request in requests(log):
            times[request["id"]].append(request["time"])
        assert set(times) == set(answered)
        again = {own: seen for own, seen in times.items() if len(seen) > 1}
        assert all(seen[-1] <= answered[own] + 0.02 for own, seen in times.items())
        asked = count_lines(log)
        print(
            f"{kept} pairs, {kills} kills, {asked} requests, {len(again)} of them on their way at a kill"
        )
        assert len(again) <= 32 * kills

        run.whole("caption", STEPS)
        assert count_lines(log) == asked
        subprocess.check_output([*run.command("caption", STEPS), "--force"])
        assert count_lines(log) == asked

        more = [{**REWRITE, "texts": 2}, *STEPS[1:]]
        new = run.whole("caption", more)["stages"]["caption"]["uri"]
        assert count_lines(log) == asked + kept
        texts_now = texts_of(run.root, new)
        assert texts_now["vecap"] == texts["vecap"]
        first = {place: text for place, text in texts_now["wordings"].items() if place[1] == 0}
        assert first == texts["wordings"]
