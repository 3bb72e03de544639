"""Oracle: the journey on a local folder; on S3 the same keys, the same ledgers, the same weights."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import s3fs
import torch
from end_to_end.conftest import Journey
from end_to_end.journeys import REPOSITORY, neuclip, only_json
from made.demo_web import DEMO_RECIPE
from servers.s3 import KEYS, make_bucket

from neuclip.checkpoint.folder import LATEST
from neuclip.index.side_files import side_records
from neuclip.stages.manifest import read_manifest, verify_sizes
from neuclip.storage.cache import local_folder
from neuclip.storage.files import exists, list_files, read_bytes, version_tag
from neuclip.towers.folder import load_towers

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(900)]

LONGER = {"train__epochs": 4, "train__lr": 2e-3, "train__launch__max_restarts": 0}
"""Some thirty steps, a checkpoint after every fourth: it is killed after the first."""


@pytest.fixture(scope="module", autouse=True)
def aws(s3_url):
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3_url}.items():
            environment.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield {**KEYS, "AWS_ENDPOINT_URL": s3_url}
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def on_s3(journey, aws, cache) -> Journey:
    root = make_bucket(aws) + "/lake"
    done = neuclip(
        *("run", DEMO_RECIPE, "--json", *journey.web.overrides(root)),
        environment={"NEUCLIP_CACHE": str(cache)},
    )
    return Journey(journey.web, Path(root), {**only_json(done), "root": root})


def test_the_same_as_on_a_folder(journey, on_s3):
    assert on_s3.result["root"].startswith("s3://")
    for name, stage in journey.result["stages"].items():
        there = on_s3.result["stages"][name]
        assert there["key"] == stage["key"], name
        assert there["ledger"] == stage["ledger"], name
        assert there["state"] == "ran"
        manifest = read_manifest(there["uri"])
        verify_sizes(there["uri"], manifest)
        assert manifest.ledger == read_manifest(stage["uri"]).ledger


def test_the_same_shards_and_scores(journey, on_s3):
    for stage in ("shard", "caption", "curate"):
        there, here = read_manifest(on_s3.uri(stage)), read_manifest(journey.uri(stage))
        assert (there.files, there.parts) == (here.files, here.parts)
        for key in here.parts:
            part = read_manifest(f"{on_s3.result['root']}/{stage}/parts/{key}")
            assert part.files == read_manifest(f"{journey.root}/{stage}/parts/{key}").files
    sides = [side_records(lake.uri("index")) for lake in (on_s3, journey)]
    there, here = (
        {
            (source, shard): file
            for source, files in side.items()
            for shard, (_, file) in files.items()
        }
        for side in sides
    )
    assert there == here
    assert {source for source, _ in here} == {"alt", "rewrite"}
    assert on_s3.result["scores"] == journey.result["scores"]


def test_the_model_loads(journey, on_s3):
    towers = load_towers(local_folder(on_s3.result["model"]))
    here = load_towers(Path(journey.result["model"]))
    tokens = towers.tokenize(["a red circle"])
    with torch.no_grad():
        assert torch.equal(towers.text_features(tokens), here.text_features(tokens))
    assert read_bytes(on_s3.result["report"]).startswith(b"<!doctype html>")


def test_again_does_nothing(on_s3):
    root = on_s3.result["root"]
    before = {name: version_tag(f"{root}/{name}") for name in list_files(root)}
    result = only_json(neuclip("run", DEMO_RECIPE, "--json", *on_s3.web.overrides(root)))
    assert {stage["state"] for stage in result["stages"].values()} == {"cached"}
    assert {name: version_tag(f"{root}/{name}") for name in list_files(root)} == before


def test_killed_training_goes_on_from_the_mirror(journey, on_s3, tmp_path):
    """Its last weights are those of a run on a folder that nobody killed."""
    root = on_s3.result["root"]
    only_train = ("run", DEMO_RECIPE, "--json", "--only", "train")
    planned = neuclip("plan", DEMO_RECIPE, "--json", *journey.web.overrides(root, **LONGER))
    folder = only_json(planned)["stages"]["train"]["uri"]
    command = [str(Path(sys.executable).with_name("neuclip")), *only_train]
    run = subprocess.Popen(
        [*command, *journey.web.overrides(root, **LONGER)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    while not exists(f"{folder}/checkpoints/{LATEST}"):
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    worker = next(
        child
        for child in psutil.Process(run.pid).children(recursive=True)
        if "neuclip.training.worker" in child.cmdline()
    )
    worker.kill()
    stdout, stderr = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "SIGKILL" in json.loads(stdout)["error"]["message"]
    assert "SIGKILL" in stderr
    assert not exists(f"{folder}/manifest.json")

    again = only_json(neuclip(*only_train, *journey.web.overrides(root, **LONGER)))
    assert again["stages"]["train"]["state"] == "ran"
    summary = read_manifest(folder).summary
    print(f"killed, resumed at step {summary['resumed_at']} of {summary['steps']}")
    assert 0 < summary["resumed_at"] < summary["steps"]

    shutil.copytree(journey.root, tmp_path / "lake")
    whole = only_json(neuclip(*only_train, *journey.web.overrides(tmp_path / "lake", **LONGER)))
    expected = read_manifest(whole["stages"]["train"]["uri"])
    assert expected.summary["resumed_at"] == 0
    assert expected.ledger == read_manifest(folder).ledger
    weights = {file.name: file.sha256 for file in expected.files if "safetensors" in file.name}
    found = {file.name: file.sha256 for file in read_manifest(folder).files}
    assert weights
    assert {name: found[name] for name in weights} == weights
