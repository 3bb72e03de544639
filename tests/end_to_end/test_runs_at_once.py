"""Several runs of one recipe at once: each stage is done by one of them, the others wait and find it done.

Oracle: what each run says it did, and what lies at the root.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from end_to_end.journeys import REPOSITORY, check_ledgers, neuclip, only_json
from made.demo_web import DEMO_RECIPE
from made.stages import NAMES

from neuclip.stages.manifest import read_manifest, verify_sizes
from neuclip.storage.files import list_files
from neuclip.storage.uris import join

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

_MOST_S = 1200


@pytest.mark.parametrize(
    ("place", "runs"), [("folder", 4), pytest.param("bucket", 2, marks=pytest.mark.s3)]
)
def test_one_works_and_the_others_wait(place, runs, tmp_path, small_web, request):
    root = str(tmp_path / "root") if place == "folder" else request.getfixturevalue("s3_bucket")
    (tmp_path / "tmp").mkdir()
    environment = {
        **os.environ,
        "NEUCLIP_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    command = [str(Path(sys.executable).with_name("neuclip")), "run", DEMO_RECIPE, "--json"]
    children = [
        subprocess.Popen(
            [*command, *small_web.overrides(root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=environment,
        )
        for _ in range(runs)
    ]
    said = [child.communicate(timeout=_MOST_S) for child in children]
    assert [child.returncode for child in children] == [0] * runs, said

    results = [json.loads(out)["stages"] for out, _ in said]
    for stage in NAMES:
        assert len({result[stage]["key"] for result in results}) == 1
        states = Counter(result[stage]["state"] for result in results)
        assert states == {"ran": 1, "cached": runs - 1}, stage
        uri = results[0][stage]["uri"]
        verify_sizes(uri, read_manifest(uri))
    check_ledgers({stage: done["ledger"] for stage, done in results[0].items()})
    waits = [line for _, log in said for line in log.splitlines() if "waits for" in line]
    assert waits
    assert list_files(join(root, ".leases")) == {}
    scratch = tmp_path / "root" / ".scratch", *(tmp_path / "tmp").glob("neuclip-scratch-*")
    assert [path for folder in scratch for path in folder.glob("*")] == []
    plan = only_json(
        neuclip("plan", DEMO_RECIPE, "--json", *small_web.overrides(root), environment=environment)
    )
    assert {stage["state"] for stage in plan["stages"].values()} == {"done"}
    workers = [max(result[stage]["state"] == "ran" for stage in NAMES) for result in results]
    print(f"{runs} runs at a {place}: {sum(workers)} of them worked, {len(waits)} waits told")
